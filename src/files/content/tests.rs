use super::*;

fn text(reading: Reading) -> Result<String, String> {
    reading.map(|content| String::from_utf8(content.bytes.to_vec()).unwrap())
}

#[test]
fn a_file_is_read_whole_up_to_the_limit() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    std::fs::write(&path, "hello").unwrap();
    assert_eq!(text(read(&path)).unwrap(), "hello");
    std::fs::write(&path, vec![b'a'; 1024 * 1024]).unwrap();
    assert_eq!(text(read(&path)).unwrap().len(), 1024 * 1024);
    std::fs::write(&path, vec![b'a'; 1024 * 1024 + 1]).unwrap();
    assert!(text(read(&path)).unwrap_err().contains("larger than 1 MiB"));
}

#[test]
fn what_is_no_file_cannot_be_read_and_is_named() {
    let dir = tempfile::tempdir().unwrap();
    assert!(text(read(dir.path())).unwrap_err().contains("not a regular file"));
    let pipe = dir.path().join("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    assert!(text(read(&pipe)).unwrap_err().contains("not a regular file"));
    let missing = dir.path().join("missing");
    assert!(text(read(&missing)).unwrap_err().contains("missing"));
}

#[test]
fn readings_that_differ_have_different_marks() {
    let content = |bytes: &str, mode| Ok(Content { bytes: Zeroizing::new(bytes.into()), mode });
    let all = [
        vec![content("a", 0o600), content("b", 0o600)],
        vec![content("ab", 0o600), content("", 0o600)],
        vec![content("a", 0o644), content("b", 0o600)],
        vec![content("a", 0), content("b", 0)],
        vec![content("a\0\0\0\0\0b", 0)],
        vec![content("a", 0o600)],
        vec![Err("a".into())],
        vec![],
    ];
    let marks: std::collections::HashSet<_> = all.iter().map(|readings| mark(readings)).collect();
    assert_eq!(marks.len(), all.len());
}
