//! Just enough of an HTTP/1.1 client to see every byte.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

pub(crate) struct Answer {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: String,
}

impl Answer {
    /// The values of a header, by its name in lower case.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let fields = self.head.lines().filter_map(|line| line.split_once(": "));
        fields.filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
    }

    /// The one value of a header, or nothing.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() <= 1, "{name}: {all:?}");
        all.first().copied()
    }
}

/// Asks and reads until the server closes.
pub(crate) async fn ask(server: SocketAddr, target: &str, fields: &[String]) -> Answer {
    let mut connection = begin(server, target, fields).await;
    let mut text = String::new();
    connection.read_to_string(&mut text).await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

/// Asks.
pub(crate) async fn begin(server: SocketAddr, target: &str, fields: &[String]) -> TcpStream {
    let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
    let mut connection = TcpStream::connect(server).await.unwrap();
    let request = format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{fields}\r\n");
    connection.write_all(request.as_bytes()).await.unwrap();
    connection
}

/// Reads until `text` has come.
pub(crate) async fn read_until(connection: &mut TcpStream, text: &str) -> String {
    let mut seen = String::new();
    while !seen.contains(text) {
        let mut bytes = [0; 1024];
        let count = connection.read(&mut bytes).await.unwrap();
        assert_ne!(count, 0, "the response ended before {text:?}: {seen:?}");
        seen.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
    }
    seen
}

/// What comes until the end, and whether the response was complete: the last chunk has no length. Says nothing of responses that tell their length.
pub(crate) async fn rest(mut connection: TcpStream) -> (String, bool) {
    let mut bytes = Vec::new();
    // A cut connection may be reset.
    let _ = connection.read_to_end(&mut bytes).await;
    let text = String::from_utf8(bytes).unwrap();
    let complete = text.ends_with("0\r\n\r\n");
    (text, complete)
}
