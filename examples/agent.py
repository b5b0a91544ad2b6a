#!/usr/bin/env python3
"""A small agent: begins a task, works with a token that it renews at half its life, completes the task.

    python3 -m venv .venv && .venv/bin/pip install -r examples/requirements.txt
    .venv/bin/python examples/agent.py -- taskpass token validate --as verifier --audience https://docs.example.org/mcp

The command after `--` stands for the work: it is run several times and gets the current token on standard input. Here it is a
verifier that asks the broker whether the token is good; in life it is a call of an MCP server's tool.

Stock grpcio is all it takes. The messages are made from proto/ at run time; nothing is generated beforehand.
"""

import argparse
import datetime
import pathlib
import subprocess
import sys
import time
import uuid

import grpc

HERE = pathlib.Path(__file__).resolve().parent
sys.path.append(str(HERE.parent / "proto"))
task_pb2, tasks = grpc.protos_and_services("taskpass/v1/task.proto")
credential_pb2, credentials = grpc.protos_and_services("taskpass/v1/credential.proto")


def connect(args):
    """A channel on which the agent proves itself by its X.509-SVID, and the broker by its certificate."""
    read = lambda path: pathlib.Path(path).read_bytes()
    mutual = grpc.ssl_channel_credentials(
        root_certificates=read(args.bundle),
        private_key=read(args.svid_key),
        certificate_chain=read(args.svid),
    )
    return grpc.secure_channel(args.broker, mutual)


class Task:
    """A task from its beginning to its end: `with Task(...) as task`, and everything minted dies with the block."""

    def __init__(self, channel, goal, audience, tools, lifetime, token_lifetime):
        self.tasks = tasks.TaskServiceStub(channel)
        self.credentials = credentials.CredentialServiceStub(channel)
        self.audience = audience
        self.token_lifetime = token_lifetime
        self.minted = None
        grant = task_pb2.Grant(audience=audience, tools=[task_pb2.ToolGrant(name=name) for name in tools])
        self.request = task_pb2.BeginTaskRequest(
            goal=goal,
            grants=[grant],
            lifetime=datetime.timedelta(seconds=lifetime),
            # A retry with the same key finds the task that the first attempt began.
            idempotency_key=str(uuid.uuid4()),
        )

    def __enter__(self):
        self.id = self.tasks.BeginTask(self.request, timeout=10).task.id
        print(f"began task {self.id}", flush=True)
        return self

    def __exit__(self, kind, error, _):
        note = "done" if error is None else f"gave up: {kind.__name__}"
        done = self.tasks.CompleteTask(task_pb2.CompleteTaskRequest(task_id=self.id, note=note), timeout=10)
        print(f"completed: ended at {done.receipt.ended_at.ToJsonString()}, {done.receipt.durability}", flush=True)

    def token(self):
        """The current token; a new one once half of its life is over."""
        if self.minted is None or time.time() >= self.minted.renew_after.ToMicroseconds() / 1e6:
            self.minted = self.credentials.MintToken(
                credential_pb2.MintTokenRequest(
                    task_id=self.id,
                    audience=self.audience,
                    lifetime=datetime.timedelta(seconds=self.token_lifetime),
                ),
                timeout=10,
            )
            print(f"minted {self.minted.credential_id}, good until {self.minted.expires_at.ToJsonString()}", flush=True)
        return self.minted.token


def work(command, token):
    """Hands the token to the command; true if it could work with it. Tokens go by pipes, never by command lines or logs."""
    return subprocess.run(command, input=token.encode(), stdout=subprocess.DEVNULL).returncode == 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--broker", default="localhost:8443", help="host:port; the host is a DNS name of its certificate")
    parser.add_argument("--svid", default=".taskpass/identities/agent.pem", help="X.509-SVID, PEM, leaf first")
    parser.add_argument("--svid-key", default=".taskpass/identities/agent.key", help="its private key, PEM")
    parser.add_argument("--bundle", default=".taskpass/bundles/broker.example.org.pem", help="CA of the broker, PEM")
    parser.add_argument("--goal", default="Find the runbook for a full disk")
    parser.add_argument("--audience", default="https://docs.example.org/mcp")
    parser.add_argument("--tool", action="append", dest="tools", help="may be repeated; search if not given")
    parser.add_argument("--lifetime", type=float, default=600, help="of the task, in seconds")
    parser.add_argument("--token-lifetime", type=float, default=4, help="in seconds; short, so that renewing can be seen")
    parser.add_argument("--rounds", type=int, default=6, help="how often to work, once a second")
    parser.add_argument("command", nargs="+", help="the work; gets the token on standard input")
    args = parser.parse_args()

    with connect(args) as channel:
        with Task(channel, args.goal, args.audience, args.tools or ["search"], args.lifetime, args.token_lifetime) as task:
            for round in range(args.rounds):
                if not work(args.command, task.token()):
                    raise RuntimeError("the work was refused")
                time.sleep(1)
            last = task.token()
        # The task has ended, so the token has, though its own time is not over.
        print("the last token is", "STILL GOOD" if work(args.command, last) else "refused now", flush=True)


if __name__ == "__main__":
    try:
        main()
    except grpc.RpcError as error:
        sys.exit(f"the broker refused: {error.code().name}: {error.details()}")
