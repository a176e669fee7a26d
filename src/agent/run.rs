//! Runs one of cofferdam's binaries for an operator: kubectl, etcdctl.

use super::channel::{BodyReceiver, NoticeSender};
use super::command::Program;
use super::root::Root;
use super::{etcdctl, kubectl};
use crate::host::{Notice, OutputStream, RunRequest};
use anyhow::{Context, Result, bail};
use std::os::unix::process::ExitStatusExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::ChildStdin;

/// Output goes out in pieces of at most this size.
const PIECE_BYTES: usize = 32 << 10;
/// What a shell reports of a process that a signal ended.
const SIGNAL_BASE: i32 = 128;

/// Runs a program to its end and returns its exit status. It may take as long
/// as it likes, but not longer than somebody listens to it.
///
/// # Errors
/// If the program is not installed, or its input was cut off.
pub async fn run(
    root: &Root,
    request: RunRequest,
    body: BodyReceiver,
    notices: NoticeSender,
) -> Result<i32> {
    let mut child = prepare(root, &request)?.spawn().await?;
    let stdin = child.stdin.take();
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let input = async {
        match stdin {
            Some(stdin) if request.input => feed(stdin, body).await,
            _ => Ok(()),
        }
    };
    let outputs = async {
        tokio::join!(
            pass_on(stdout, OutputStream::Stdout, &notices),
            pass_on(stderr, OutputStream::Stderr, &notices),
        );
    };
    let ended = async {
        tokio::pin!(input);
        let wait = async {
            outputs.await;
            child.wait().await
        };
        tokio::pin!(wait);
        let mut is_fed = false;
        loop {
            tokio::select! {
                // Half an input must not be taken for a whole one: the child
                // is killed when this returns.
                result = &mut input, if !is_fed => {
                    result?;
                    is_fed = true;
                }
                status = &mut wait => {
                    return status.with_context(|| format!("waiting for {}", request.program));
                }
            }
        }
    };
    tokio::select! {
        status = ended => {
            let status = status?;
            let signal = status.signal().map(|signal| SIGNAL_BASE + signal);
            Ok(status.code().or(signal).unwrap_or(SIGNAL_BASE))
        }
        () = notices.closed() => bail!("running {}: nobody listens any more", request.program),
    }
}

/// The program with the environment that it needs.
fn prepare(root: &Root, request: &RunRequest) -> Result<Program> {
    let name = &request.program;
    if name.is_empty() || name.contains('/') || name.starts_with('.') {
        bail!("running `{name}`: it is not the plain name of a program");
    }
    let mut program = Program::new(root.binary(name)?).arguments(request.arguments.iter().cloned());
    match name.as_str() {
        "kubectl" => {
            for (name, value) in kubectl::environment(root) {
                program = program.environment(name, value);
            }
        }
        "etcdctl" => {
            for (name, value) in etcdctl::environment() {
                program = program.environment(name, value);
            }
            if takes_all_endpoints(request) {
                let all = request.etcd_endpoints.join(",");
                program = program.environment("ETCDCTL_ENDPOINTS", all);
            }
        }
        _ => {}
    }
    Ok(program)
}

/// What is done to one member alone, which is the host's own.
const OF_ONE_MEMBER: [&str; 2] = ["defrag", "snapshot"];

/// Whether `etcdctl` is told of all members. It refuses a variable beside its
/// flag.
fn takes_all_endpoints(request: &RunRequest) -> bool {
    let names_others = |argument: &String| argument.starts_with("--endpoints");
    let is_of_one = |word: &String| OF_ONE_MEMBER.contains(&word.as_str());
    !request.etcd_endpoints.is_empty()
        && !request.arguments.iter().any(is_of_one)
        && !request.arguments.iter().any(names_others)
}

async fn feed(mut stdin: ChildStdin, mut body: BodyReceiver) -> Result<()> {
    while let Some(piece) = body.next().await? {
        // A program that does not want the rest has its own reasons.
        if stdin.write_all(&piece).await.is_err() {
            return Ok(());
        }
    }
    let _ = stdin.shutdown().await;
    Ok(())
}

async fn pass_on(
    output: Option<impl AsyncRead + Unpin>,
    stream: OutputStream,
    notices: &NoticeSender,
) {
    let Some(mut output) = output else { return };
    let mut piece = vec![0; PIECE_BYTES];
    while let Ok(length) = output.read(&mut piece).await {
        if length == 0 {
            return;
        }
        let bytes = piece[..length].to_vec();
        notices.send(Notice::Output { stream, bytes }).await;
    }
}

#[cfg(test)]
mod tests {
    use super::super::channel::{body_channel, notice_channel};
    use super::super::test_host::TestHost;
    use super::*;
    use bytes::Bytes;

    fn request(program: &str, arguments: &[&str]) -> RunRequest {
        RunRequest {
            program: program.to_owned(),
            arguments: arguments.iter().map(|each| (*each).to_owned()).collect(),
            input: true,
            etcd_endpoints: ["https://m1:2379", "https://m2:2379"]
                .map(Into::into)
                .into(),
        }
    }

    #[tokio::test]
    async fn etcdctl_asks_all_members_unless_told_otherwise() {
        let host = TestHost::new();
        host.binary("etcdctl", "printf '%s' \"$ETCDCTL_ENDPOINTS\"");
        for (arguments, expected) in [
            (&["member", "list"][..], "https://m1:2379,https://m2:2379"),
            (&["--endpoints=https://m2:2379", "endpoint", "health"], ""),
            (&["snapshot", "save", "/tmp/x"], ""),
            (&["defrag"], ""),
        ] {
            let (body, receiver) = body_channel();
            body.finish().unwrap();
            let (sender, mut notices) = notice_channel();
            let request = request("etcdctl", arguments);
            assert_eq!(run(&host.root, request, receiver, sender).await.unwrap(), 0);
            let mut said = Vec::new();
            while let Some(Notice::Output { bytes, .. }) = notices.recv().await {
                said.extend(bytes);
            }
            assert_eq!(String::from_utf8(said).unwrap(), expected, "{arguments:?}");
        }
    }

    #[tokio::test]
    async fn passes_input_output_and_status() {
        let host = TestHost::new();
        host.binary(
            "kubectl",
            "cat; echo \"$1 $KUBECONFIG\"; echo no >&2; exit 7",
        );
        let (body, receiver) = body_channel();
        body.send(Bytes::from_static(b"yaml\n")).unwrap();
        body.finish().unwrap();
        let (sender, mut notices) = notice_channel();
        let status = run(&host.root, request("kubectl", &["get"]), receiver, sender)
            .await
            .unwrap();
        assert_eq!(status, 7);
        let mut texts = (String::new(), String::new());
        while let Some(Notice::Output { stream, bytes }) = notices.recv().await {
            let text = String::from_utf8(bytes).unwrap();
            match stream {
                OutputStream::Stdout => texts.0.push_str(&text),
                OutputStream::Stderr => texts.1.push_str(&text),
            }
        }
        assert!(texts.0.starts_with("yaml\nget "), "{}", texts.0);
        assert!(
            texts
                .0
                .trim_end()
                .ends_with("/etc/kubernetes/admin.kubeconfig")
        );
        assert_eq!(texts.1, "no\n");
    }

    #[tokio::test]
    async fn half_an_input_ends_the_program() {
        let host = TestHost::new();
        host.binary("kubectl", "cat > /dev/null; touch \"$0.applied\"");
        let (body, receiver) = body_channel();
        body.send(Bytes::from_static(b"half")).unwrap();
        drop(body);
        let (sender, _notices) = notice_channel();
        let error = run(&host.root, request("kubectl", &[]), receiver, sender)
            .await
            .unwrap_err();
        assert!(error.to_string().contains("cut off"), "{error}");
    }

    #[tokio::test]
    async fn a_program_without_a_listener_is_ended() {
        let host = TestHost::new();
        host.binary("kubectl", "exec sleep 600");
        let (sender, notices) = notice_channel();
        drop(notices);
        let mut request = request("kubectl", &[]);
        request.input = false;
        let error = run(&host.root, request, BodyReceiver::empty(), sender)
            .await
            .unwrap_err();
        assert!(error.to_string().contains("nobody listens"), "{error}");
    }

    #[tokio::test]
    async fn only_plain_names_are_run() {
        let host = TestHost::new();
        for name in ["/bin/sh", "../sh", "", ".x", "a/b"] {
            let (sender, _notices) = notice_channel();
            let body = BodyReceiver::empty();
            assert!(
                run(&host.root, request(name, &[]), body, sender)
                    .await
                    .is_err()
            );
        }
    }
}
