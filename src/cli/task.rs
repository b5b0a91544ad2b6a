//! `taskpass task ...`: declare a task, look at it, end it.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::args::{Wait, at_least_one, duration, grant, grants_file, proto_duration};
use super::connect::{Client, Connection};
use super::failure::{Exit, Failure, Outcome};
use super::output::{Output, inline};
use super::render;
use crate::proto;
use crate::time::{Clock as _, SystemClock, Timestamp};

/// Declare tasks, look at them, end them
#[derive(Debug, Args)]
pub(super) struct Task {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Declare a task
    Begin(Begin),
    /// Show one task
    Get {
        /// Its id
        #[arg(value_name = "TASK")]
        task: String,
    },
    /// List your own tasks; operators may list those of others
    List(List),
    /// Move the deadline of a live task
    Extend {
        /// Its id
        #[arg(value_name = "TASK")]
        task: String,
        /// Counted from now; policy's cap at the beginning of the task stands
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        lifetime: Duration,
    },
    /// End a task of your own: every credential of it is dead when this returns
    Complete(End),
    /// For operators: end a task of anybody
    Revoke(End),
}

#[derive(Debug, Args)]
struct Begin {
    /// What the task is for, in plain words
    #[arg(long, value_name = "TEXT")]
    goal: String,
    /// What it may use: an audience and its tools. May be repeated
    #[arg(long = "grant", value_name = "AUDIENCE=TOOL,TOOL", value_parser = grant)]
    grants: Vec<proto::Grant>,
    /// Grants with limits on arguments, as JSON; - for standard input
    #[arg(long, value_name = "FILE")]
    grants_file: Option<PathBuf>,
    /// How long it may take; policy may cut it
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration)]
    lifetime: Duration,
    /// On whose behalf; only where policy names you for them
    #[arg(long, value_name = "NAME")]
    subject: Option<String>,
    /// A word of your own: the same command with it finds the same task
    #[arg(long, value_name = "TEXT")]
    idempotency_key: Option<String>,
    /// Print the task's id and nothing else
    #[arg(long, short, conflicts_with = "json")]
    quiet: bool,
}

#[derive(Debug, Args)]
struct List {
    /// For operators: tasks of all workloads
    #[arg(long, conflicts_with = "owner")]
    all: bool,
    /// For operators: tasks of this workload
    #[arg(long, value_name = "SPIFFE_ID")]
    owner: Option<String>,
    /// Leave ended tasks out
    #[arg(long)]
    live: bool,
    /// At most so many
    #[arg(long, value_name = "N", default_value = "100", value_parser = at_least_one)]
    limit: usize,
}

#[derive(Debug, Args)]
struct End {
    /// Its id
    #[arg(value_name = "TASK")]
    task: String,
    /// What there is to say about it
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    note: String,
    #[command(flatten)]
    wait: Wait,
}

impl Task {
    pub(super) async fn run(self, out: Output) -> Outcome {
        let request = match &self.verb {
            Verb::Begin(begin) => Some(begin.request()?),
            _ => None,
        };
        let client = self.connection.open(out).await?;
        let now = SystemClock.now();
        match (self.verb, request) {
            (Verb::Begin(begin), Some(request)) => begin.run(&client, request, out, now).await,
            (Verb::Get { task }, _) => {
                let request = proto::GetTaskRequest { task_id: task };
                let answer = client.get_task(request).await?;
                show(out, &answer.task.unwrap_or_default(), now)
            }
            (Verb::List(list), _) => list.run(&client, out, now).await,
            (Verb::Extend { task, lifetime }, _) => {
                let request =
                    proto::ExtendTaskRequest { task_id: task, lifetime: Some(proto_duration(lifetime)) };
                let answer = client.extend_task(request).await?;
                show(out, &answer.task.unwrap_or_default(), now)
            }
            (Verb::Complete(end), _) => {
                let request = proto::CompleteTaskRequest {
                    wait: end.wait.to_proto(),
                    task_id: end.task,
                    note: end.note,
                };
                let answer = client.complete_task(request).await?;
                ended(out, answer.task.as_ref(), &answer.receipt.unwrap_or_default())
            }
            (Verb::Revoke(end), _) => {
                let request =
                    proto::RevokeTaskRequest { wait: end.wait.to_proto(), task_id: end.task, note: end.note };
                let answer = client.revoke_task(request).await?;
                ended(out, answer.task.as_ref(), &answer.receipt.unwrap_or_default())
            }
            (Verb::Begin(_), None) => Err(Failure::failed("no request was made")),
        }
    }
}

impl Begin {
    /// What is read from files is read before anything is connected.
    fn request(&self) -> Result<proto::BeginTaskRequest, Failure> {
        let mut grants = self.grants.clone();
        if let Some(file) = &self.grants_file {
            grants.extend(grants_file(file)?);
        }
        if grants.is_empty() {
            return Err(Failure::usage(
                "say what the task may use: --grant AUDIENCE=TOOL,TOOL or --grants-file FILE",
            )
            .hint("`taskpass audience list` shows what there is."));
        }
        Ok(proto::BeginTaskRequest {
            goal: self.goal.clone(),
            grants,
            lifetime: Some(proto_duration(self.lifetime)),
            subject: self.subject.clone().unwrap_or_default(),
            idempotency_key: self.idempotency_key.clone().unwrap_or_default(),
        })
    }

    async fn run(
        self,
        client: &Client,
        request: proto::BeginTaskRequest,
        out: Output,
        now: Timestamp,
    ) -> Outcome {
        let answer = client.begin_task(request).await?;
        let task = answer.task.unwrap_or_default();
        let document = || json!({ "task": render::task(&task), "replayed": answer.replayed });
        let text = || match self.quiet {
            true => inline(&task.id),
            false => render::task_text(&task, now),
        };
        out.answer(document, text).map(|()| Exit::Done)
    }
}

impl List {
    async fn run(self, client: &Client, out: Output, now: Timestamp) -> Outcome {
        let (mut tasks, mut page_token, mut more) = (Vec::new(), String::new(), true);
        while more && tasks.len() < self.limit {
            let left = i32::try_from(self.limit - tasks.len()).unwrap_or(i32::MAX);
            let request = proto::ListTasksRequest {
                page_size: left.min(500),
                page_token,
                all_owners: self.all,
                owner: self.owner.clone().unwrap_or_default(),
                live_only: self.live,
            };
            let page = client.list_tasks(request).await?;
            tasks.extend(page.tasks);
            page_token = page.next_page_token;
            more = !page_token.is_empty();
        }
        let document =
            || json!({ "tasks": tasks.iter().map(render::task).collect::<Vec<_>>(), "more": more });
        let text = || {
            let rows: Vec<_> = tasks.iter().map(|task| render::task_row(task, now)).collect();
            let end = if more { "There are more: raise --limit.\n" } else { "" };
            render::table(["TASK", "STATE", "OWNER", "LEFT", "GOAL"], &rows) + end
        };
        out.answer(document, text).map(|()| Exit::Done)
    }
}

fn show(out: Output, task: &proto::Task, now: Timestamp) -> Outcome {
    out.answer(|| render::task(task), || render::task_text(task, now)).map(|()| Exit::Done)
}

/// `None`: the store did not know the task, and its id is ended all the same.
fn ended(out: Output, task: Option<&proto::Task>, receipt: &proto::Receipt) -> Outcome {
    let now = SystemClock.now();
    let document =
        || json!({ "task": task.map_or(Value::Null, render::task), "receipt": render::receipt(receipt) });
    let text = || {
        let task = task.map(|task| render::task_text(task, now));
        task.unwrap_or_else(|| "The store did not know this task. Its id is ended.\n".to_owned())
            + &render::receipt_text(receipt, now)
    };
    out.answer(document, text).map(|()| Exit::Done)
}
