use super::*;

/// The words of all files; the word "bad" is refused.
#[derive(Debug, PartialEq)]
struct Words(Vec<String>);

impl FromFiles for Words {
    const KIND: &'static str = "words";
    const EXTENSION: &'static str = "txt";
    const LIMITS: Limits = Limits { files: 3, file_bytes: 32 };

    fn from_files(listing: &Listing) -> Result<Self, Problems> {
        let (mut words, mut problems) = (Vec::new(), Problems::default());
        for file in &listing.files {
            words.extend(file.text.split_whitespace().map(str::to_owned));
            if let Some(at) = file.text.find("bad") {
                problems.add(&file.path, Some(file.line_at(at)), "a bad word");
            }
        }
        problems.or(Self(words))
    }

    fn check_start(&self, dir: &Path) -> Result<(), Problems> {
        if self.0.is_empty() { Err(Problems::one(dir, "nothing to say")) } else { Ok(()) }
    }
}

struct Directory(tempfile::TempDir);

impl Directory {
    fn with(files: &[(&str, &str)]) -> Self {
        let dir = Self(tempfile::tempdir().unwrap());
        files.iter().for_each(|(name, text)| dir.write(name, text));
        dir
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.0.path().join(name), text).unwrap();
    }

    fn open(&self) -> Result<Watched<Words>, String> {
        Watched::open(self.0.path())
            .map_err(|problems| problems.to_string().replace(self.0.path().to_str().unwrap(), "DIR"))
    }

    fn refusal(&self) -> String {
        self.open().err().expect("refused")
    }
}

fn words(watched: &Watched<Words>) -> String {
    watched.get().0.join(" ")
}

#[test]
fn files_are_read_in_the_order_of_their_names_and_others_left_alone() {
    let dir = Directory::with(&[
        ("b.txt", "two"),
        ("a.txt", "one"),
        (".c.txt", "hidden"),
        ("a.txt~", "x"),
        ("d", "x"),
    ]);
    assert_eq!(words(&dir.open().unwrap()), "one two");
}

#[test]
fn what_cannot_be_read_is_named() {
    assert!(
        Watched::<Words>::open("/nonexistent/dir")
            .err()
            .unwrap()
            .to_string()
            .contains("/nonexistent/dir: cannot read")
    );
    let dir = Directory::with(&[("a.txt", "one\ntwo\nbad"), ("b.txt", "bad")]);
    assert_eq!(dir.refusal(), "DIR/a.txt:3: a bad word\nDIR/b.txt:1: a bad word");
    dir.write("a.txt", b"\xff");
    dir.write("b.txt", "x".repeat(33));
    let pipe = dir.0.path().join("c.txt");
    assert!(std::process::Command::new("mkfifo").arg(pipe).status().unwrap().success());
    assert_eq!(
        dir.refusal(),
        "DIR/a.txt: cannot read the file: not UTF-8 text\n\
         DIR/b.txt: cannot read the file: larger than 32 bytes\n\
         DIR/c.txt: cannot read the file: not a regular file"
    );
    dir.write("d.txt", "x");
    assert_eq!(dir.refusal(), "DIR: more than 3 *.txt files");
}

#[test]
fn an_empty_directory_is_refused_at_start_and_taken_later() {
    let dir = Directory::with(&[]);
    assert_eq!(dir.refusal(), "DIR: nothing to say");
    dir.write("a.txt", "one");
    let watched = dir.open().unwrap();
    fs::remove_file(dir.0.path().join("a.txt")).unwrap();
    assert_eq!([watched.look(), watched.look()], [Looked::Unsettled, Looked::Taken]);
    assert_eq!(words(&watched), "");
}

#[test]
fn a_change_is_taken_when_two_looks_find_the_same() {
    let dir = Directory::with(&[("a.txt", "one")]);
    let watched = dir.open().unwrap();
    assert_eq!(watched.look(), Looked::Unchanged);
    dir.write("a.txt", "half a");
    assert_eq!(watched.look(), Looked::Unsettled);
    dir.write("a.txt", "half a line");
    assert_eq!(watched.look(), Looked::Unsettled);
    assert_eq!(words(&watched), "one");
    assert_eq!(watched.look(), Looked::Taken);
    assert_eq!(words(&watched), "half a line");
    assert_eq!(watched.look(), Looked::Unchanged);
}

#[test]
fn a_new_file_and_a_renamed_one_are_changes() {
    let dir = Directory::with(&[("a.txt", "one")]);
    let watched = dir.open().unwrap();
    dir.write("b.txt", "");
    assert_eq!([watched.look(), watched.look()], [Looked::Unsettled, Looked::Taken]);
    fs::rename(dir.0.path().join("b.txt"), dir.0.path().join("c.txt")).unwrap();
    assert_eq!([watched.look(), watched.look()], [Looked::Unsettled, Looked::Taken]);
}

#[test]
fn bad_content_leaves_the_old_in_force_and_is_judged_once() {
    let dir = Directory::with(&[("a.txt", "one")]);
    let watched = dir.open().unwrap();
    dir.write("b.txt", "bad");
    assert_eq!(
        [watched.look(), watched.look(), watched.look()],
        [Looked::Unsettled, Looked::Refused, Looked::Unchanged]
    );
    assert_eq!(words(&watched), "one");
    dir.write("b.txt", "two");
    assert_eq!([watched.look(), watched.look()], [Looked::Unsettled, Looked::Taken]);
    assert_eq!(words(&watched), "one two");
}

#[test]
fn a_directory_that_vanishes_leaves_the_old_in_force() {
    let dir = Directory::with(&[("a.txt", "one")]);
    let watched = dir.open().unwrap();
    let (from, to) = (dir.0.path().to_owned(), dir.0.path().with_extension("moved"));
    fs::rename(&from, &to).unwrap();
    assert_eq!([watched.look(), watched.look()], [Looked::Unsettled, Looked::Refused]);
    assert_eq!(words(&watched), "one");
    fs::rename(&to, &from).unwrap();
    assert_eq!([watched.look(), watched.look()], [Looked::Unsettled, Looked::Taken]);
}

#[test]
fn a_symlink_that_is_swapped_is_a_change() {
    let dir = Directory::with(&[(".v1", "one"), (".v2", "two")]);
    let link = dir.0.path().join("a.txt");
    std::os::unix::fs::symlink(".v1", &link).unwrap();
    let watched = dir.open().unwrap();
    fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink(".v2", &link).unwrap();
    assert_eq!([watched.look(), watched.look()], [Looked::Unsettled, Looked::Taken]);
    assert_eq!(words(&watched), "two");
}

#[test]
fn the_digest_tells_names_and_contents_apart() {
    let digest = |texts: &[(&str, &str)]| Listing::of_texts(texts).digest();
    let one = digest(&[("a", "bc")]);
    assert_eq!(one, digest(&[("a", "bc")]));
    assert_eq!(one.to_string().len(), 64);
    for other in [digest(&[("ab", "c")]), digest(&[("a", "b"), ("", "c")]), digest(&[])] {
        assert_ne!(one, other);
    }
}

#[tokio::test]
async fn a_watcher_takes_a_change_by_itself_and_stops_when_told() {
    let dir = Directory::with(&[("a.txt", "one")]);
    let watched = Arc::new(dir.open().unwrap());
    let stop = CancellationToken::new();
    let watcher = tokio::spawn(Arc::clone(&watched).keep_looking(Duration::from_millis(50), stop.clone()));
    dir.write("a.txt", "two");
    let taken = tokio::time::timeout(Duration::from_secs(20), async {
        while words(&watched) != "two" {
            tokio::task::yield_now().await;
        }
    });
    taken.await.expect("the change was taken");
    stop.cancel();
    tokio::time::timeout(Duration::from_secs(20), watcher).await.expect("stopped").unwrap();
}
