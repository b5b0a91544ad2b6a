//! Calls by path with bytes for messages, and bare handshakes.

use std::net::SocketAddr;
use std::sync::Arc;

use prost::bytes::{Buf as _, BufMut as _};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_stream::{Stream, StreamExt as _};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::{Code, Request, Status};

use super::client::Client;

/// Messages as the bytes that they are.
#[derive(Clone, Copy, Default)]
pub struct Bytes;

impl Codec for Bytes {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut bytes = vec![0; from.remaining()];
        from.copy_to_slice(&mut bytes);
        Ok(Some(bytes))
    }
}

/// Calls a method by its path with one message, and returns the first message of the answer. On the wire this is what a unary call is.
pub async fn call(client: &Client, path: &str, message: Vec<u8>) -> Result<Vec<u8>, Status> {
    first_answer(client, path, tokio_stream::once(message)).await
}

/// The same for a method that takes a stream of messages: the caller's side stays open, for its end may end the call before it is answered.
pub async fn open_call(client: &Client, path: &str, message: Vec<u8>) -> Result<Vec<u8>, Status> {
    first_answer(client, path, tokio_stream::once(message).chain(tokio_stream::pending())).await
}

async fn first_answer(
    client: &Client,
    path: &str,
    messages: impl Stream<Item = Vec<u8>> + Send + 'static,
) -> Result<Vec<u8>, Status> {
    let mut grpc = tonic::client::Grpc::new(client.channel.clone());
    grpc.ready().await.map_err(|e| Status::from_error(Box::new(e)))?;
    let path = path.parse().unwrap();
    let mut answer = grpc.streaming(Request::new(messages), path, Bytes).await?.into_inner();
    answer.message().await?.ok_or_else(|| Status::internal("no message in the answer"))
}

/// A call whose message never comes; it begins as soon as there is a place for it.
pub fn silent(client: &Client) -> JoinHandle<Result<(), Status>> {
    let mut grpc = tonic::client::Grpc::new(client.channel.clone());
    tokio::spawn(async move {
        loop {
            grpc.ready().await.map_err(|e| Status::from_error(Box::new(e)))?;
            let path = "/taskpass.v1.TaskService/BeginTask".parse().unwrap();
            let silence = Request::new(tokio_stream::pending::<Vec<u8>>());
            match grpc.streaming(silence, path, Bytes).await {
                Err(status) if status.code() == Code::ResourceExhausted => {}
                answer => return answer.map(drop),
            }
        }
    })
}

/// Whether all places for calls are taken, this caller's or all.
pub async fn is_full(client: &Client) -> bool {
    client.list(Default::default()).await.is_err_and(|status| status.code() == Code::ResourceExhausted)
}

/// Shakes hands and reads: the error that the broker refused us with, or nothing if it sent something, as a broker that took us does.
pub async fn handshake(address: SocketAddr, config: ClientConfig) -> Result<(), String> {
    let tcp = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let connecting = TlsConnector::from(Arc::new(config)).connect(name, tcp).await;
    let mut tls = connecting.map_err(|e| e.to_string())?;
    // A client's handshake completes before the server has judged it: the verdict is what comes next. HTTP/2 begins with settings.
    let mut first = [0; 1];
    match tls.read(&mut first).await {
        Ok(1) => Ok(()),
        Ok(_) => Err("closed".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}
