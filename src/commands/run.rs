//! `cofferdam kubectl` and `cofferdam etcdctl`: the cluster's own tools, run
//! on a master, since from the jump host nothing but SSH is open.

use super::connect;
use super::fault::{Exit, Fault};
use crate::cli::RunArgs;
use crate::host::{Body, Call, Host, Notice, OutputStream, Request, Response, RunRequest};
use bytes::Bytes;
use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::time::Duration;

/// Following logs may take as long as people look.
const LIMIT: Duration = Duration::from_secs(24 * 3600);
/// Standard input is passed on in pieces of this size, in bytes.
const PIECE: usize = 64 << 10;

pub(super) async fn run(program: &str, args: RunArgs) -> Result<ExitCode, Fault> {
    let (inventory, site) = connect::read(&args.inventory.inventory)?;
    let masters: Vec<&str> = inventory
        .control_plane()
        .iter()
        .map(|host| host.name.as_str())
        .collect();
    let host = connect::connect_first(&inventory, &site, &masters).await?;
    let request = Request::Run(RunRequest {
        program: program.to_owned(),
        arguments: args.arguments,
        input: args.stdin,
    });
    let body: Option<Box<dyn Body>> = args.stdin.then(|| Box::new(Stdin) as Box<dyn Body>);
    let call = Call {
        request,
        body,
        notices: &print,
        limit: LIMIT,
    };
    match host.call(call).await? {
        Response::Exited { status } => Ok(ExitCode::from(u8::try_from(status).unwrap_or(1))),
        other => Err(Fault::new(
            Exit::Failed,
            format!("an unexpected answer: {other:?}"),
        )),
    }
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

/// Our standard input as a body.
struct Stdin;

impl Body for Stdin {
    fn next(&mut self) -> io::Result<Option<Bytes>> {
        let mut piece = vec![0; PIECE];
        let read = io::stdin().lock().read(&mut piece)?;
        piece.truncate(read);
        Ok((read > 0).then(|| piece.into()))
    }
}
