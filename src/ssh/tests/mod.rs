//! Tests against an SSH server in this process: ordinary use, and one test for
//! each fault. Every test has a limit, and none measures time.

mod connecting;
mod faults;
mod streams;

use super::*;
use crate::testing::ssh_server::{Ending, Exec, ServerOptions, SshServer, random_key};
use camino::Utf8Path;
use russh::keys::ssh_key::LineEnding;
use russh::keys::{Algorithm, PrivateKey};
use std::future::Future;

/// No test takes as long unless something hangs.
const TEST_LIMIT: Duration = Duration::from_secs(120);

pub(crate) async fn within_limit<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(TEST_LIMIT, work)
        .await
        .expect("the test hangs")
}

/// Short waits, so that tests of faults are quick.
fn quick() -> Timeouts {
    Timeouts {
        connect: Duration::from_secs(5),
        handshake: Duration::from_secs(1),
        authenticate: Duration::from_secs(5),
        start: Duration::from_secs(5),
        silence: Duration::from_millis(900),
    }
}

/// Room for slow machines where nothing is to fail.
fn patient() -> Timeouts {
    Timeouts::default()
}

/// A server, the way to it, and the key files that it needs.
pub(crate) struct World {
    server: SshServer,
    target: Target,
    host_keys: HostKeys,
    client_key: PrivateKey,
    _directory: tempfile::TempDir,
}

impl World {
    async fn new(change: impl FnOnce(&mut ServerOptions)) -> Self {
        Self::with(run_command, change).await
    }

    pub(crate) async fn with<F, R>(run: F, change: impl FnOnce(&mut ServerOptions)) -> Self
    where
        F: Fn(Exec) -> R + Send + Sync + 'static,
        R: Future<Output = Ending> + Send + 'static,
    {
        let mut options = ServerOptions::new(run);
        change(&mut options);
        let host_key = HostKey(options.host_keys[0].public_key().clone());
        let server = SshServer::start(options).await.unwrap();
        let address = server.address();

        let directory = tempfile::tempdir().unwrap();
        let client_key = random_key(Algorithm::Ed25519);
        let path = Utf8Path::from_path(directory.path())
            .unwrap()
            .join("id_ed25519");
        let text = client_key.to_openssh(LineEnding::LF).unwrap();
        fs_err::write(&path, text.as_bytes()).unwrap();

        let mut host_keys = HostKeys::default();
        host_keys.record(
            "m1",
            PinnedKey {
                address,
                key: host_key,
            },
        );
        Self {
            server,
            target: Target {
                host: "m1".to_owned(),
                address: address.ip(),
                port: address.port(),
                user: "root".to_owned(),
                identity: Identity::KeyFile(path),
            },
            host_keys,
            client_key,
            _directory: directory,
        }
    }

    pub(crate) async fn connect(&self, timeouts: Timeouts) -> Session {
        connect(&self.target, &self.host_keys, &timeouts)
            .await
            .unwrap()
    }

    async fn connect_error(&self, timeouts: Timeouts) -> ConnectError {
        match within_limit(connect(&self.target, &self.host_keys, &timeouts)).await {
            Ok(_) => panic!("connected, but was not to"),
            Err(error) => {
                let text = error.to_string();
                let address = self.server.address().to_string();
                assert!(text.contains("m1 (") && text.contains(&address), "{text}");
                assert!(!error.hint().is_empty());
                error
            }
        }
    }

    /// All connections end on the server's side too: nothing is leaked.
    async fn all_hung_up(&self) {
        within_limit(async {
            while self.server.connections() > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    }
}

/// The commands of the test server.
async fn run_command(mut exec: Exec) -> Ending {
    let (name, argument) = exec.command.split_once(' ').unwrap_or((&exec.command, ""));
    match name {
        "echo" => {
            exec.stdout.write(argument.to_owned()).await.ok();
            Ending::Status(0)
        }
        "fail" => {
            for number in 0..30 {
                exec.stderr.write(format!("line {number}\n")).await.ok();
            }
            Ending::Status(argument.parse().unwrap())
        }
        "cat" => {
            while let Some(chunk) = exec.stdin.next().await {
                if exec.stdout.write(chunk).await.is_err() {
                    break;
                }
            }
            Ending::Status(0)
        }
        "count" => {
            let input = exec.stdin.read_to_end().await;
            exec.stdout.write(input.len().to_string()).await.ok();
            Ending::Status(0)
        }
        // Writes so many bytes to standard error, then one to standard output.
        "complain" => {
            let noise = vec![b'e'; 32 * 1024];
            for _ in 0..argument.parse::<usize>().unwrap() / noise.len() {
                exec.stderr.write(noise.clone()).await.ok();
            }
            exec.stdout.write("x").await.ok();
            Ending::Status(0)
        }
        "zeros" => {
            let zeros = bytes::Bytes::from(vec![0; 32 * 1024]);
            for _ in 0..argument.parse::<usize>().unwrap() / zeros.len() {
                if exec.stdout.write(zeros.clone()).await.is_err() {
                    break;
                }
            }
            Ending::Status(0)
        }
        "early-status" => Ending::StatusThenData(0, bytes::Bytes::from(vec![b'd'; 1024 * 1024])),
        "die" => Ending::Signal("KILL"),
        "no-status" => Ending::NoStatus,
        "hang" => {
            exec.stderr.write("still here\n").await.ok();
            Ending::Silence
        }
        // Ends without reading its input.
        "deaf" => Ending::Status(3),
        // Says something when its input has ended.
        "await-eof" => {
            exec.stdin.read_to_end().await;
            exec.stdout.write("eof").await.ok();
            Ending::Status(0)
        }
        other => panic!("the test server has no command {other}"),
    }
}
