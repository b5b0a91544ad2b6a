use std::io;
use std::sync::Mutex;
use std::time::Duration;

use super::*;
use crate::audit::Outcome;
use crate::time::Timestamp;

/// A disk with room for so many bytes, which can be made larger.
#[derive(Clone, Default)]
struct Disk(Arc<Mutex<(Vec<u8>, usize)>>, bool);

impl Disk {
    fn with_room(room: usize, takes_back: bool) -> Self {
        Self(Arc::new(Mutex::new((Vec::new(), room))), takes_back)
    }

    fn give(&self, more: usize) {
        self.0.lock().unwrap().1 += more;
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().0.clone()).unwrap()
    }
}

impl Target for Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut disk = self.0.lock().unwrap();
        let room = disk.1 - disk.0.len();
        match bytes.len().min(room) {
            0 => Err(io::ErrorKind::StorageFull.into()),
            fits => {
                disk.0.extend(&bytes[..fits]);
                Ok(fits)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn mend(&mut self, torn: usize) -> bool {
        let mut disk = self.0.lock().unwrap();
        let whole = disk.0.len() - torn;
        if self.1 {
            disk.0.truncate(whole);
        }
        self.1
    }
}

fn event(object: usize) -> Event {
    Event {
        at: Timestamp::from_millis(0),
        request: None,
        who: String::new(),
        action: "Test",
        object: object.to_string(),
        why: Vec::new(),
        outcome: Outcome::Done,
        facts: Vec::new(),
    }
}

async fn until(what: impl Fn() -> bool) {
    let patience = async {
        while !what() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), patience).await.expect("in time");
}

/// Lines 0 to `lines`, each once, whole and in order.
fn assert_whole(text: &str, lines: usize) {
    let expected: Vec<u8> = (0..lines).flat_map(|n| event(n).to_line()).collect();
    assert_eq!(text, String::from_utf8(expected).unwrap());
}

async fn a_full_disk_loses_nothing_and_heals(takes_back: bool) {
    let line = event(0).to_line().len();
    let disk = Disk::with_room(2 * line + line / 2, takes_back);
    let sink = LineSink::spawn(disk.clone()).unwrap();
    for n in 0..2 {
        sink.write(event(n)).await.unwrap();
    }
    sink.flush().await.unwrap();
    sink.check().unwrap();
    // This one does not fit, and its caller hears of it; so does the next one.
    sink.write(event(2)).await.unwrap_err();
    assert!(sink.check().is_err());
    let refused = sink.write(event(3)).await.unwrap_err();
    assert_eq!(refused.reason(), Reason::AuditUnavailable);
    if takes_back {
        until(|| disk.text().ends_with('\n')).await;
    }
    assert!(sink.check().is_err(), "it still cannot be written");

    disk.give(100 * line);
    until(|| sink.check().is_ok()).await;
    sink.write(event(4)).await.unwrap();
    sink.flush().await.unwrap();
    assert_whole(&disk.text(), 5);
}

#[tokio::test]
async fn a_full_disk_loses_no_line_and_heals_by_itself() {
    a_full_disk_loses_nothing_and_heals(true).await;
}

#[tokio::test]
async fn a_pipe_that_takes_nothing_back_has_no_torn_line_either() {
    a_full_disk_loses_nothing_and_heals(false).await;
}

#[tokio::test]
async fn a_line_is_in_the_file_before_its_caller_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let sink = LineSink::file(&path).unwrap();
    for n in 0..50 {
        sink.write(event(n)).await.unwrap();
        assert_whole(&std::fs::read_to_string(&path).unwrap(), n + 1);
    }
}

#[tokio::test]
async fn another_file_may_be_put_in_the_place_of_one_that_is_full() {
    let dir = tempfile::tempdir().unwrap();
    let (path, room) = (dir.path().join("audit.jsonl"), dir.path().join("room.jsonl"));
    std::os::unix::fs::symlink("/dev/full", &path).unwrap();
    let sink = LineSink::file(&path).unwrap();
    let _ = sink.write(event(0)).await;
    until(|| sink.check().is_err()).await;
    std::fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(&room, &path).unwrap();
    until(|| sink.check().is_ok()).await;
    sink.write(event(1)).await.unwrap();
    sink.flush().await.unwrap();
    assert_whole(&std::fs::read_to_string(&room).unwrap(), 2);
}

#[test]
fn the_beginning_of_a_line_is_taken_back_unless_somebody_else_has_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let mut target = FileTarget::open(&path).unwrap();
    assert_eq!(target.write(b"{}\n{\"v").unwrap(), 6);
    assert!(target.mend(3));
    assert_eq!(std::fs::read(&path).unwrap(), b"{}\n");
    target.write(b"{\"v").unwrap();
    std::fs::write(&path, b"truncated and copied").unwrap();
    assert!(!target.mend(3), "what is there is not ours");
    assert_eq!(std::fs::read(&path).unwrap(), b"truncated and copied");
}

#[test]
fn a_line_that_a_dead_broker_left_unfinished_stays_apart() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    std::fs::write(&path, b"{}\n{\"v").unwrap();
    FileTarget::open(&path).unwrap().write(b"{}\n").unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"{}\n{\"v\n{}\n");
}
