//! A PKCS#11 token: SoftHSM2 in a directory of its own, reached through `hsm_shim.c`, which makes it hang, refuse a PIN and count.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use tempfile::TempDir;

/// Where packages put SoftHSM2.
const MODULES: [&str; 7] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
    "/opt/homebrew/lib/softhsm/libsofthsm2.so",
];
pub const TOKEN: &str = "taskpass";
pub const PIN: &str = "pin-84b1f6";
pub const KEK: &str = "taskpass-kek";

/// A token that is initialised, and has nothing in it.
pub struct Hsm {
    dir: TempDir,
}

/// The module of SoftHSM2.
pub fn softhsm() -> &'static str {
    let found = MODULES.iter().find(|path| Path::new(path).is_file());
    found.expect("SoftHSM2 is not installed: apt-get install softhsm2")
}

/// The module in front of it, compiled once.
fn shim() -> &'static Path {
    static SHIM: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, shim) = SHIM.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let (source, shim) = (
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/support/hsm_shim.c"),
            dir.path().join("shim.so"),
        );
        let made = Command::new("cc")
            .args(["-O1", "-fPIC", "-shared", "-o"])
            .arg(&shim)
            .arg(source)
            .arg("-ldl")
            .output();
        let made = made.expect("a C compiler");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        (dir, shim)
    });
    shim
}

impl Hsm {
    pub fn new() -> Self {
        let hsm = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir(hsm.path("tokens")).unwrap();
        let tokens = hsm.path("tokens");
        fs::write(hsm.path("softhsm2.conf"), format!("directories.tokendir = {}\n", tokens.display()))
            .unwrap();
        let said =
            hsm.util(&["--init-token", "--free", "--label", TOKEN, "--so-pin", "so-pin-1", "--pin", PIN]);
        assert!(said.status.success(), "{said:?}");
        hsm
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `softhsm2-util`, at this token.
    pub fn util(&self, arguments: &[&str]) -> Output {
        let mut util = Command::new("softhsm2-util");
        util.args(arguments).env("SOFTHSM2_CONF", self.path("softhsm2.conf")).output().expect("softhsm2-util")
    }

    /// What a process that uses the token has to be given.
    pub fn environment(&self) -> Vec<(String, String)> {
        let text = |path: PathBuf| path.to_str().unwrap().to_owned();
        vec![
            ("SOFTHSM2_CONF".to_owned(), text(self.path("softhsm2.conf"))),
            ("SHIM_MODULE".to_owned(), softhsm().to_owned()),
            ("SHIM_DIR".to_owned(), text(self.dir.path().to_owned())),
        ]
    }

    /// The lines of `[keys.pkcs11]`, to be the last ones of `[keys]`.
    pub fn section(&self, more: &str) -> String {
        let module = shim().display();
        format!("[keys.pkcs11]\nmodule = \"{module}\"\ntoken = \"{TOKEN}\"\npin_file = \"pin\"\n{more}")
    }

    /// From now on no call comes back, until [`Self::comes_back`].
    pub fn hangs(&self) {
        self.says("hang");
    }

    pub fn comes_back(&self) {
        fs::remove_file(self.path("hang")).unwrap();
    }

    /// The token is taken away, until [`Self::is_put_back`].
    pub fn vanishes(&self) {
        fs::rename(self.path("tokens"), self.path("away")).unwrap();
    }

    pub fn is_put_back(&self) {
        fs::rename(self.path("away"), self.path("tokens")).unwrap();
    }

    /// Everything in the token is gone; the token is there.
    pub fn loses_its_keys(&self) {
        for token in fs::read_dir(self.path("tokens")).unwrap() {
            for file in fs::read_dir(token.unwrap().path()).unwrap().map(|it| it.unwrap()) {
                let name = file.file_name().into_string().unwrap();
                if !name.starts_with("token.") && name != "generation" {
                    fs::remove_file(file.path()).unwrap();
                }
            }
        }
    }

    /// Makes the module in front do something: see there.
    pub fn says(&self, what: &str) {
        fs::write(self.path(what), "").unwrap();
    }

    pub fn says_no_more(&self, what: &str) {
        fs::remove_file(self.path(what)).unwrap();
    }

    /// How often a function was called.
    pub fn calls(&self, function: &str) -> usize {
        let calls = fs::read_to_string(self.path("calls")).unwrap_or_default();
        calls.lines().filter(|line| *line == function).count()
    }

    /// How many objects are in the token: a key pair is two.
    pub fn objects(&self) -> usize {
        let tokens = fs::read_dir(self.path("tokens")).unwrap().map(|it| it.unwrap().path());
        let files = tokens.flat_map(|token| fs::read_dir(token).unwrap()).map(|it| it.unwrap().file_name());
        files.filter(|name| name.to_str().unwrap().ends_with(".object") && name != "token.object").count()
    }
}
