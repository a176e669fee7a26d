//! Programs that the agent runs on its host.

use super::failure::last_lines;
use crate::host::Failure;
use anyhow::{Context, Result};
use camino::Utf8PathBuf;
use std::io::ErrorKind;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

/// A program that says nothing for so long is taken for hung. Those that
/// rightly take longer name their own limit.
const DEFAULT_LIMIT: Duration = Duration::from_secs(60);
/// More output than this is not kept: node lists of large clusters are a few
/// megabytes.
const OUTPUT_LIMIT: u64 = 64 << 20;
/// Together a second, for what takes a moment.
const BUSY_TRIES: u32 = 40;
const BUSY_PAUSE: Duration = Duration::from_millis(25);

/// A program to run, with a clean environment and a limit of time.
#[derive(Clone, Debug)]
pub struct Program {
    path: Utf8PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    input: Option<Vec<u8>>,
    limit: Duration,
}

/// What a program that ended by itself left behind.
#[derive(Clone, Debug)]
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Program {
    pub fn new(path: impl Into<Utf8PathBuf>) -> Self {
        Self {
            path: path.into(),
            arguments: Vec::new(),
            environment: Vec::new(),
            input: None,
            limit: DEFAULT_LIMIT,
        }
    }

    #[must_use]
    pub fn argument(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    #[must_use]
    pub fn arguments<T: Into<String>>(mut self, arguments: impl IntoIterator<Item = T>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Sets an environment variable. Never a secret: any user may read the
    /// environment of a process of the same user.
    #[must_use]
    pub fn environment(mut self, name: &str, value: impl Into<String>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// Bytes for its standard input, which is empty otherwise.
    #[must_use]
    pub fn input(mut self, input: Vec<u8>) -> Self {
        self.input = Some(input);
        self
    }

    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// The command line, for messages.
    pub fn line(&self) -> String {
        let name = self.path.file_name().unwrap_or(self.path.as_str());
        let mut line = name.to_owned();
        for argument in &self.arguments {
            line.push(' ');
            line.push_str(argument);
        }
        line
    }

    /// Starts it with all three streams piped. It is killed when the child is
    /// dropped.
    ///
    /// # Errors
    /// If it can't be started.
    pub async fn spawn(&self) -> Result<Child> {
        let mut tries = 1;
        loop {
            // A child that was forked while the program was written holds the file open
            // until it is another program itself.
            match self.command().spawn() {
                Err(error)
                    if error.kind() == ErrorKind::ExecutableFileBusy && tries < BUSY_TRIES =>
                {
                    tries += 1;
                    tokio::time::sleep(BUSY_PAUSE).await;
                }
                child => return child.with_context(|| format!("starting `{}`", self.path)),
            }
        }
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command
            .args(&self.arguments)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LC_ALL", "C.UTF-8")
            .env("HOME", "/root")
            .env("SYSTEMD_COLORS", "0")
            .env("SYSTEMD_PAGER", "")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// Runs it to its end, whatever its exit status.
    ///
    /// # Errors
    /// If it can't be started or does not end within its limit.
    pub async fn finish(&self) -> Result<Finished> {
        let mut child = self.spawn().await?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take();
        let stderr = child.stderr.take();
        let feed = async {
            // A program that ends without reading all its input is judged by
            // its exit status.
            if let (Some(mut stdin), Some(input)) = (stdin, &self.input) {
                let _ = stdin.write_all(input).await;
                let _ = stdin.shutdown().await;
            }
        };
        let work = async {
            let ((), stdout, stderr) = tokio::join!(feed, read_all(stdout), read_all(stderr));
            let status = child.wait().await;
            (status, stdout, stderr)
        };
        let (status, stdout, stderr) =
            tokio::time::timeout(self.limit, work)
                .await
                .map_err(|_| Failure {
                    message: format!(
                        "running `{}`: it did not end within {} s",
                        self.line(),
                        self.limit.as_secs()
                    ),
                    lines: Vec::new(),
                    hint: None,
                })?;
        Ok(Finished {
            status: status.with_context(|| format!("waiting for `{}`", self.line()))?,
            stdout: stdout.with_context(|| format!("reading what `{}` wrote", self.line()))?,
            stderr: stderr.with_context(|| format!("reading what `{}` wrote", self.line()))?,
        })
    }

    /// Runs it to a successful end and returns its standard output.
    ///
    /// # Errors
    /// As [`Program::finish`], and if its exit status is not 0: then with its
    /// last lines.
    pub async fn succeed(&self) -> Result<String> {
        let finished = self.finish().await?;
        if finished.status.success() {
            return Ok(finished.stdout);
        }
        Err(self.failure(&finished).into())
    }

    /// The failure that an exit status other than 0 is.
    pub fn failure(&self, finished: &Finished) -> Failure {
        let lines = if finished.stderr.trim().is_empty() {
            last_lines(&finished.stdout)
        } else {
            last_lines(&finished.stderr)
        };
        let last = lines.last().map(|line| format!(": {line}"));
        Failure {
            message: format!(
                "running `{}`: {}{}",
                self.line(),
                status_text(finished.status),
                last.unwrap_or_default()
            ),
            lines,
            hint: None,
        }
    }
}

/// `exit status 1`, `killed by signal 9`.
pub fn status_text(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => "ended for an unknown reason".to_owned(),
    }
}

async fn read_all<T: tokio::io::AsyncRead + Unpin>(stream: Option<T>) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    if let Some(stream) = stream {
        let mut limited = stream.take(OUTPUT_LIMIT);
        limited.read_to_end(&mut bytes).await?;
        // Whatever is beyond the limit is drained, so that the program is not
        // stuck in a write.
        tokio::io::copy(&mut limited.into_inner(), &mut tokio::io::sink()).await?;
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::super::failure::failure_of;
    use super::*;

    fn shell(script: &str) -> Program {
        Program::new("/bin/sh").arguments(["-c", script])
    }

    #[tokio::test]
    async fn passes_input_and_returns_output() {
        let text = shell("cat; echo $NAME")
            .input(b"in\n".to_vec())
            .environment("NAME", "value")
            .succeed()
            .await
            .unwrap();
        assert_eq!(text, "in\nvalue\n");
    }

    #[tokio::test]
    async fn a_program_that_is_still_open_for_writing_is_started_once_it_is_not() {
        let host = crate::agent::test_host::TestHost::new();
        host.program("tool", "echo done");
        let path = host.root.path("/usr/bin/tool");
        let open = fs_err::OpenOptions::new().append(true).open(&path).unwrap();
        let program = Program::new(path);
        let closing = async {
            tokio::time::sleep(Duration::from_millis(60)).await;
            drop(open);
        };
        let (told, ()) = tokio::join!(program.succeed(), closing);
        assert_eq!(told.unwrap(), "done\n");
    }

    #[tokio::test]
    async fn a_failure_has_status_and_last_lines() {
        let error = shell("echo out; echo first >&2; echo last >&2; exit 3")
            .succeed()
            .await
            .unwrap_err();
        let failure = failure_of(&error);
        assert!(
            failure.message.contains("exit status 3: last"),
            "{}",
            failure.message
        );
        assert_eq!(failure.lines, ["first", "last"]);
    }

    #[tokio::test]
    async fn a_hung_program_is_an_error_that_names_it() {
        let error = shell("exec sleep 600")
            .limit(Duration::from_millis(50))
            .finish()
            .await
            .unwrap_err();
        let message = failure_of(&error).message;
        assert!(message.contains("sleep 600"), "{message}");
    }

    #[tokio::test]
    async fn a_program_that_reads_nothing_does_not_block_its_feeder() {
        let program = shell("exec <&-; exit 0").input(vec![0; 4 << 20]);
        assert!(program.finish().await.unwrap().status.success());
    }
}
