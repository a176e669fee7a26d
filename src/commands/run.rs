//! `cofferdam kubectl` and `cofferdam etcdctl`: the cluster's own tools, run
//! on a master, since from the jump host nothing but SSH is open.

use super::connect;
use super::fault::{Exit, Fault};
use crate::cli::RunArgs;
use crate::host::remote::RemoteHost;
use crate::host::{Body, Call, Host, Notice, OutputStream, Request, Response, RunRequest};
use crate::inventory;
use crate::status::{self, etcd_endpoints};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use std::io::{self, IsTerminal, Read, Write};
use std::process::ExitCode;
use std::time::Duration;
use tokio::sync::mpsc;

/// Following logs may take as long as people look.
const LIMIT: Duration = Duration::from_secs(24 * 3600);
/// An API server that is ready says so at once.
const READY_LIMIT: Duration = Duration::from_secs(10);
/// The program that asks an API server.
const KUBECTL: &str = "kubectl";
/// Standard input is passed on in pieces of this size, in bytes.
const PIECE: usize = 64 << 10;
/// Pieces that may wait for the link.
const PIECES: usize = 4;

pub(super) async fn run(program: &str, args: RunArgs) -> Result<ExitCode, Fault> {
    let (inventory, site) = connect::read(&args.inventory.inventory)?;
    let masters = inventory.control_plane();
    let names: Vec<&str> = masters.iter().map(|host| host.name.as_str()).collect();
    // etcdctl asks all members, wherever it runs; kubectl its host's API server.
    let serves = async |host: &RemoteHost| {
        let own = masters.iter().find(|master| master.name == host.name());
        program != KUBECTL || names.len() == 1 || is_ready(host, own).await
    };
    let host = connect::connect_serving(&inventory, &site, &names, serves).await?;
    let takes_input = args.stdin || (reads_input(&args.arguments) && !io::stdin().is_terminal());
    let request = Request::Run(RunRequest {
        program: program.to_owned(),
        arguments: args.arguments,
        input: takes_input,
        etcd_endpoints: etcd_endpoints(&inventory),
    });
    let body: Option<Box<dyn Body>> = takes_input.then(|| Box::new(Stdin::read()) as Box<dyn Body>);
    let call = Call {
        request,
        body,
        notices: &print,
        limit: LIMIT,
    };
    match host.call(call).await? {
        Response::Exited { status } => Ok(ExitCode::from(u8::try_from(status).unwrap_or(1))),
        _ => {
            let message = format!("{}: an unexpected answer to running {program}", host.name());
            Err(Fault::new(Exit::Failed, message))
        }
    }
}

/// Whether the host's own API server is ready.
async fn is_ready(host: &RemoteHost, master: Option<&&inventory::Host>) -> bool {
    let Some(master) = master else { return false };
    let call = Call {
        request: Request::Observe(status::api_request(master)),
        body: None,
        notices: &|_| (),
        limit: READY_LIMIT,
    };
    match host.call(call).await {
        Ok(Response::Facts(facts)) => status::has_ready_api_server(master, &facts),
        _ => false,
    }
}

/// Whether kubectl reads its standard input with these arguments. It is not
/// passed on otherwise: a loop over lines (`while read`) must keep its own.
fn reads_input(arguments: &[String]) -> bool {
    let own = arguments.iter().take_while(|argument| *argument != "--");
    let mut before = "";
    for argument in own {
        let argument = argument.as_str();
        let is_file_flag = matches!(before, "-f" | "--filename" | "--patch-file");
        let is_named = matches!(
            argument,
            "-i" | "-it" | "-ti" | "--stdin" | "--stdin=true" | "-f-" | "-f=-" | "--filename=-"
        );
        if is_named || (is_file_flag && argument == "-") || argument.ends_with("/dev/stdin") {
            return true;
        }
        before = argument;
    }
    false
}

/// A program's output, where it belongs. A closed pipe ends nothing there.
fn print(notice: Notice) {
    let Notice::Output { stream, bytes } = notice else {
        return;
    };
    let _ = match stream {
        OutputStream::Stdout => {
            let mut stdout = io::stdout().lock();
            stdout.write_all(&bytes).and_then(|()| stdout.flush())
        }
        OutputStream::Stderr => io::stderr().lock().write_all(&bytes),
    };
}

/// Our standard input as a body, read on a thread of its own: the next piece
/// may come much later than the end of the program that it is for.
struct Stdin {
    pieces: mpsc::Receiver<io::Result<Bytes>>,
}

impl Stdin {
    fn read() -> Self {
        let (sender, pieces) = mpsc::channel(PIECES);
        std::thread::spawn(move || {
            loop {
                let mut piece = vec![0; PIECE];
                let read = io::stdin().lock().read(&mut piece);
                let piece = match read {
                    Ok(0) => return,
                    Ok(length) => {
                        piece.truncate(length);
                        Ok(piece.into())
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => Err(error),
                };
                if sender.blocking_send(piece).is_err() {
                    return;
                }
            }
        });
        Self { pieces }
    }
}

impl Body for Stdin {
    /// Only for callers outside of a runtime.
    fn next(&mut self) -> io::Result<Option<Bytes>> {
        self.pieces.blocking_recv().transpose()
    }

    fn wait_for_next(&mut self) -> BoxFuture<'_, io::Result<Option<Bytes>>> {
        Box::pin(async { self.pieces.recv().await.transpose() })
    }
}

#[cfg(test)]
mod tests {
    use super::reads_input;

    #[test]
    fn input_is_taken_only_where_it_is_read() {
        for (line, expected) in [
            ("apply -f -", true),
            ("apply -f-", true),
            ("apply --filename=-", true),
            ("apply --server-side --filename -", true),
            ("exec -i web -- cat", true),
            ("exec -it web -- sh", true),
            ("create secret generic a --from-file=key=/dev/stdin", true),
            ("get nodes", false),
            ("apply -f manifest.yaml", false),
            ("exec web -- tar -i -f -", false),
            ("get pods -", false),
        ] {
            let arguments: Vec<String> = line.split(' ').map(str::to_owned).collect();
            assert_eq!(reads_input(&arguments), expected, "{line}");
        }
    }
}
