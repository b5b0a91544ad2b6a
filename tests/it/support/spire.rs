//! SPIRE itself: a server, and an agent that hands out SVIDs on this machine. Its binaries are made by `scripts/spire.sh`.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::eventually;
use super::page::{self, shell};

/// A server with what belongs to it, in a directory of its own; killed when it is dropped.
pub struct Spire {
    dir: TempDir,
    trust_domain: &'static str,
    port: u16,
    server: Option<Child>,
    agent: Option<Child>,
}

/// A port that nobody listens at.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// One of its binaries, on the path or where `scripts/spire.sh` puts them.
fn binary(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap();
    let made = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/bin");
    let mut places = std::env::split_paths(&path).chain([made]);
    let found = places.find_map(|place| Some(place.join(name)).filter(|path| path.is_file()));
    found.unwrap_or_else(|| panic!("{name} is not there: scripts/spire.sh makes it"))
}

impl Spire {
    /// Starts a server. `federation`: lines of its section `server`; `environment`: variables that it is given.
    pub async fn server(trust_domain: &'static str, federation: &str, environment: &[(&str, &str)]) -> Self {
        let mut spire =
            Self { dir: TempDir::new().unwrap(), trust_domain, port: free_port(), server: None, agent: None };
        let dir = spire.dir.path().display();
        let config = format!(
            r#"server {{
                bind_address = "127.0.0.1"
                bind_port = "{}"
                socket_path = "{dir}/api.sock"
                trust_domain = "{trust_domain}"
                data_dir = "{dir}/server"
                log_level = "DEBUG"
                {federation}
            }}
            plugins {{
                DataStore "sql" {{ plugin_data {{ database_type = "sqlite3" connection_string = "{dir}/db" }} }}
                KeyManager "memory" {{ plugin_data {{}} }}
                NodeAttestor "join_token" {{ plugin_data {{}} }}
            }}"#,
            spire.port
        );
        fs::write(spire.path("server.conf"), config).unwrap();
        // What finds `spire-server` on the path asks this one.
        fs::create_dir(spire.path("bin")).unwrap();
        spire.wrap("spire-server", &format!("\"$@\" -socketPath {dir}/api.sock"));
        spire.wrap("spire-agent", "\"$@\"");
        let mut command = Command::new(binary("spire-server"));
        command.arg("run").arg("-config").arg(spire.path("server.conf")).envs(environment.iter().copied());
        spire.server = Some(spire.start("server", command));
        eventually("SPIRE's server", async || spire.try_admin("healthcheck")).await;
        spire
    }

    fn wrap(&self, name: &str, arguments: &str) {
        use std::os::unix::fs::PermissionsExt as _;
        let script = self.path("bin").join(name);
        fs::write(&script, format!("#!/bin/sh\nexec {} {arguments}\n", binary(name).display())).unwrap();
        fs::set_permissions(script, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn start(&self, name: &str, mut command: Command) -> Child {
        let log = File::create(self.path(&format!("{name}.log"))).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        command.spawn().unwrap()
    }

    /// Starts an agent, which is the node `node1`, and waits until it is well. Once more, after [`Self::kill_agent`]: as the same node.
    pub async fn agent(&mut self) {
        let dir = self.dir.path().display();
        let first = !self.path("agent").exists();
        let config = format!(
            r#"agent {{
                server_address = "127.0.0.1"
                server_port = "{}"
                socket_path = "{dir}/agent.sock"
                trust_bundle_path = "{dir}/boot.pem"
                trust_domain = "{}"
                data_dir = "{dir}/agent"
            }}
            plugins {{
                KeyManager "disk" {{ plugin_data {{ directory = "{dir}/agent" }} }}
                NodeAttestor "join_token" {{ plugin_data {{}} }}
                WorkloadAttestor "unix" {{ plugin_data {{ discover_workload_path = true workload_size_limit = -1 }} }}
            }}"#,
            self.port, self.trust_domain
        );
        fs::write(self.path("agent.conf"), config).unwrap();
        let mut command = Command::new(binary("spire-agent"));
        command.arg("run").arg("-config").arg(self.path("agent.conf"));
        if first {
            fs::create_dir(self.path("agent")).unwrap();
            fs::write(self.path("boot.pem"), self.admin("bundle show")).unwrap();
            let node = format!("token generate -spiffeID spiffe://{}/node1", self.trust_domain);
            let token = self.admin(&node);
            command.args(["-joinToken", token.trim().strip_prefix("Token: ").unwrap()]);
        }
        self.agent = Some(self.start("agent", command));
        let socket = self.path("agent.sock").display().to_string();
        let check = format!("spire-agent healthcheck -socketPath {socket}");
        eventually("SPIRE's agent", async || {
            self.shell(self.dir.path(), &check).output().unwrap().status.success()
        })
        .await;
    }

    /// Kills the agent, as a crash does.
    pub fn kill_agent(&mut self) {
        let mut agent = self.agent.take().unwrap();
        agent.kill().unwrap();
        agent.wait().unwrap();
    }

    /// A path in its directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What it and its agent logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("server.log")).unwrap()
    }

    /// A shell that finds its tools, which talk to this server.
    pub fn shell(&self, dir: &Path, script: &str) -> Command {
        let mut shell = shell(dir, script);
        let path = shell.get_envs().find(|(name, _)| *name == "PATH").and_then(|(_, path)| path).unwrap();
        let path = format!("{}:{}", self.path("bin").display(), path.to_str().unwrap());
        shell.env("PATH", path);
        shell
    }

    /// Runs `spire-server` with these words: what it says.
    #[track_caller]
    pub fn admin(&self, words: &str) -> String {
        page::run(&mut self.shell(self.dir.path(), &format!("spire-server {words}")))
    }

    fn try_admin(&self, words: &str) -> bool {
        self.shell(self.dir.path(), &format!("spire-server {words}")).output().unwrap().status.success()
    }

    /// Replaces its X.509 authority by the next one, which is trusted beside it from now on; the id of the one that was.
    pub fn rotate(&self) -> String {
        let authority = |words: &str| {
            let said = self.admin(&format!("localauthority x509 {words} -output json"));
            let said: serde_json::Value = serde_json::from_str(&said).unwrap();
            said
        };
        let id = |of: &serde_json::Value| of["authority_id"].as_str().unwrap().to_owned();
        let old = id(&authority("show")["active"]);
        let next = id(&authority("prepare")["prepared_authority"]);
        authority(&format!("activate -authorityID {next}"));
        old
    }

    /// Has everybody below an authority renew at once, and waits until the server itself has: revoked before that, its own bundle endpoint shows an SVID that nobody trusts.
    pub async fn taint(&self, authority: &str) {
        let is_renewal = |line: &&str| line.contains("Signed X509 SVID") && line.contains("svid_rotator");
        let renewed = || self.log().lines().filter(is_renewal).count();
        let before = renewed();
        self.admin(&format!("localauthority x509 taint -authorityID {authority}"));
        eventually("the server's own renewal", async || renewed() > before).await;
    }

    /// Takes an authority out of the bundle.
    pub fn revoke(&self, authority: &str) {
        self.admin(&format!("localauthority x509 revoke -authorityID {authority}"));
    }
}

impl Drop for Spire {
    fn drop(&mut self) {
        for child in [&mut self.agent, &mut self.server].into_iter().flatten() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}
