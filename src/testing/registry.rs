//! A registry of HTTPS that answers as a test tells it.

use super::authority::TestAuthority;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// One request as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// `HEAD /v2/k8s/pause/manifests/…`.
    pub line: String,
    pub authorization: Option<String>,
}

/// Status and body for a request, of which so many came before.
pub type Answer = dyn Fn(&Asked, usize) -> (u16, Vec<u8>) + Send + Sync;

/// It runs as long as the test's runtime.
pub struct FakeRegistry {
    /// `127.0.0.1:41234/k8s`.
    pub registry: String,
    /// PEM.
    pub ca: String,
    pub asked: Arc<Mutex<Vec<Asked>>>,
}

impl FakeRegistry {
    pub async fn start(answer: Box<Answer>) -> Self {
        let authority = TestAuthority::generate();
        let acceptor = authority.acceptor(&["127.0.0.1"]);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let registry = format!("{}/k8s", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&asked);
        let answer: Arc<Answer> = answer.into();
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let (acceptor, seen) = (acceptor.clone(), Arc::clone(&seen));
                let answer = Arc::clone(&answer);
                tokio::spawn(async move {
                    // A client that does not trust it ends the connection.
                    let Ok(mut stream) = acceptor.accept(connection).await else {
                        return;
                    };
                    let mut head = Vec::new();
                    let mut byte = [0];
                    while !head.ends_with(b"\r\n\r\n") {
                        match stream.read(&mut byte).await {
                            Ok(1) => head.push(byte[0]),
                            _ => return,
                        }
                    }
                    let request = asked_of(&String::from_utf8(head).unwrap());
                    let before = {
                        let mut seen = seen.lock().unwrap();
                        let before = seen.iter().filter(|other| **other == request).count();
                        seen.push(request.clone());
                        before
                    };
                    let (status, body) = answer(&request, before);
                    let length = body.len();
                    let head = format!(
                        "HTTP/1.1 {status} x\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
                    );
                    let body: &[u8] = match request.line.starts_with("HEAD ") {
                        true => &[],
                        false => &body,
                    };
                    let _ = stream.write_all(&[head.as_bytes(), body].concat()).await;
                    let _ = stream.shutdown().await;
                });
            }
        });
        Self {
            registry,
            ca: authority.pem(),
            asked,
        }
    }
}

fn asked_of(head: &str) -> Asked {
    let line = head.lines().next().unwrap_or_default();
    let line = line.trim_end_matches(" HTTP/1.1").to_owned();
    let authorization = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("authorization")
            .then(|| value.to_owned())
    });
    Asked {
        line,
        authorization,
    }
}
