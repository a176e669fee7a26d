//! The SSH transport against OpenSSH's own server, which each test starts as
//! an ordinary process with its own keys and configuration.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "in tests a panic is the report"
)]

use bytes::Bytes;
use camino::{Utf8Path, Utf8PathBuf};
use cofferdam::ssh::{
    ConnectError, Error, Exit, HostKeys, Identity, Session, Target, Timeouts, connect, scan,
    sh_quote,
};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// No test takes as long unless something hangs.
const TEST_LIMIT: Duration = Duration::from_secs(120);

/// How long sshd may take to listen.
const START_LIMIT: Duration = Duration::from_secs(20);

struct Sshd {
    process: Child,
    directory: Utf8PathBuf,
    port: u16,
    _temporary: tempfile::TempDir,
}

impl Sshd {
    /// Starts a server with an ed25519 and an RSA host key, to which the key
    /// `client` may log in.
    fn start() -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let directory = Utf8PathBuf::from_path_buf(temporary.path().to_owned()).unwrap();
        for (name, kind) in [
            ("host_ed25519", "ed25519"),
            ("host_rsa", "rsa"),
            ("client", "ed25519"),
            ("client_rsa", "rsa"),
            ("stranger", "ed25519"),
        ] {
            run(Command::new("ssh-keygen")
                .args(["-q", "-t", kind, "-N", "", "-f"])
                .arg(directory.join(name)));
        }
        let authorized = ["client.pub", "client_rsa.pub"]
            .map(|name| fs_err::read_to_string(directory.join(name)).unwrap())
            .concat();
        fs_err::write(directory.join("authorized_keys"), authorized).unwrap();
        if rustix::process::getuid().is_root() {
            // Its package makes it at boot only.
            fs_err::create_dir_all("/run/sshd").unwrap();
        }
        let port = free_port();
        let configuration = format!(
            "ListenAddress 127.0.0.1:{port}\n\
             HostKey {directory}/host_rsa\n\
             HostKey {directory}/host_ed25519\n\
             AuthorizedKeysFile {directory}/authorized_keys\n\
             PidFile none\n\
             StrictModes no\n\
             UsePAM no\n\
             PasswordAuthentication no\n\
             KbdInteractiveAuthentication no\n"
        );
        let path = directory.join("sshd_config");
        fs_err::write(&path, configuration).unwrap();
        let log = fs_err::File::create(directory.join("log")).unwrap();
        let process = Command::new("/usr/sbin/sshd")
            .args(["-D", "-e", "-f", path.as_str()])
            .stdin(Stdio::null())
            .stderr(log.into_parts().0)
            .spawn()
            .unwrap_or_else(|error| {
                panic!("starting /usr/sbin/sshd: {error}; install the package openssh-server")
            });
        let sshd = Self {
            process,
            directory,
            port,
            _temporary: temporary,
        };
        let start = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            assert!(start.elapsed() < START_LIMIT, "sshd: {}", sshd.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        sshd
    }

    fn log(&self) -> String {
        fs_err::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    fn target(&self, key: &str) -> Target {
        Target {
            host: "m1".to_owned(),
            address: Ipv4Addr::LOCALHOST.into(),
            port: self.port,
            user: user_name(),
            identity: Identity::KeyFile(self.directory.join(key)),
        }
    }

    /// Pins one of the server's host keys.
    fn pinned(&self, name: &str) -> HostKeys {
        let text = fs_err::read_to_string(self.directory.join(name)).unwrap();
        let mut fields = text.split_whitespace();
        let (kind, body) = (fields.next().unwrap(), fields.next().unwrap());
        HostKeys::parse(&format!("m1 127.0.0.1:{} {kind} {body}\n", self.port)).unwrap()
    }

    async fn connect(&self) -> Session {
        let host_keys = self.pinned("host_ed25519.pub");
        let session = connect(&self.target("client"), &host_keys, &Timeouts::default()).await;
        session.unwrap_or_else(|error| panic!("{error}\n{}", self.log()))
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

fn run(command: &mut Command) -> String {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}; install openssh-client"));
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn user_name() -> String {
    run(Command::new("id").arg("-un")).trim().to_owned()
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// The fingerprint as ssh-keygen prints it.
fn fingerprint(path: &Utf8Path) -> String {
    let line = run(Command::new("ssh-keygen").args(["-lf", path.as_str()]));
    line.split_whitespace().nth(1).unwrap().to_owned()
}

async fn within_limit<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(TEST_LIMIT, work)
        .await
        .expect("the test hangs")
}

#[tokio::test]
async fn commands_and_how_they_end() {
    let sshd = Sshd::start();
    let session = within_limit(sshd.connect()).await;
    let output =
        async |command: &str| within_limit(session.output(command, Bytes::new(), TEST_LIMIT)).await;

    let hello = output("echo hello; echo there >&2; exit 5").await.unwrap();
    assert_eq!(hello.exit, Exit::Status(5));
    assert_eq!(
        (&hello.stdout[..], &hello.stderr[..]),
        (&b"hello\n"[..], &b"there\n"[..])
    );

    let killed = output("kill -KILL $$").await.unwrap().exit;
    assert!(
        matches!(&killed, Exit::Signal { name, .. } if name == "KILL"),
        "{killed}"
    );

    let strange = "it's $HOME, `date` and \"more\"\n*";
    let echoed = output(&format!("printf %s {}", sh_quote(strange))).await;
    assert_eq!(echoed.unwrap().stdout, strange.as_bytes());

    let missing = session.run("cat /nowhere/at-all", Bytes::new(), TEST_LIMIT);
    let text = within_limit(missing).await.unwrap_err().to_string();
    assert!(
        text.contains("running `cat /nowhere/at-all` on m1 (127.0.0.1:")
            && text.contains("exit status 1\n  cat: /nowhere/at-all:"),
        "{text}"
    );

    let copy = session.run("cat", Bytes::from_static(b"in and out"), TEST_LIMIT);
    assert_eq!(within_limit(copy).await.unwrap(), b"in and out");

    // A process that reads a little and ends, while much more is on its way.
    let head = session.run("head -c 3", Bytes::from(vec![b'x'; 16 << 20]), TEST_LIMIT);
    assert_eq!(within_limit(head).await.unwrap(), b"xxx");

    // What was said until then is told; how soon the other side gets to say
    // it, nobody knows.
    let mut limit = Duration::from_millis(500);
    loop {
        let sleep = session.run("echo so far >&2; sleep 60", Bytes::new(), limit);
        let text = within_limit(sleep).await.unwrap_err().to_string();
        let seconds = limit.as_secs_f32();
        let ended = format!("no end after {seconds} s");
        assert!(text.contains(&ended), "{text}");
        if text.ends_with(&format!("{ended}\n  so far")) {
            break;
        }
        assert!(limit < TEST_LIMIT, "{text}");
        limit *= 2;
    }
    session.close().await;
}

#[tokio::test]
async fn more_commands_at_once_than_sshd_allows() {
    let sshd = Sshd::start();
    let session = within_limit(sshd.connect()).await;
    let commands = (0..25).map(|number| {
        let session = &session;
        async move {
            let command = format!("sleep 0.2; echo {number}");
            session.run(&command, Bytes::new(), TEST_LIMIT).await
        }
    });
    let outputs = within_limit(futures_util::future::join_all(commands)).await;
    for (number, output) in outputs.into_iter().enumerate() {
        assert_eq!(output.unwrap(), format!("{number}\n").into_bytes());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_a_gigabyte_up_and_a_quarter_down() {
    let sshd = Sshd::start();
    let session = within_limit(sshd.connect()).await;
    let up = 512 << 20;
    let data = Bytes::from(vec![0x5a; up]);
    within_limit(session.run("cat >/dev/null", data, TEST_LIMIT))
        .await
        .unwrap();
    assert!(session.transferred().sent > up as u64);

    let down = 256 << 20;
    let process = session.exec(&format!("head -c {down} /dev/zero")).await;
    let mut process = process.unwrap();
    let received = within_limit(async {
        let mut received = 0;
        while let Some(chunk) = process.stdout.next_chunk().await.unwrap() {
            received += chunk.len();
        }
        received
    });
    assert_eq!(received.await, down);
    assert_eq!(process.wait().await.unwrap(), Exit::Status(0));
}

#[tokio::test]
async fn a_process_that_reads_nothing_holds_up_its_writer() {
    let sshd = Sshd::start();
    let session = within_limit(sshd.connect()).await;
    let mut process = session.exec("sleep 5").await.unwrap();
    let chunk = Bytes::from(vec![1; 1 << 20]);
    let write = async {
        for _ in 0..64 {
            process.stdin.write_bytes(chunk.clone()).await.unwrap();
        }
    };
    let limit = Duration::from_secs(1);
    assert!(tokio::time::timeout(limit, write).await.is_err());
    // sshd's window is 2 MiB, a pipe and a socket hold a little more.
    let sent = session.transferred().sent;
    assert!(sent < 16 << 20, "{sent} bytes went out");
    // Others get through meanwhile.
    let output = session.run("echo on", Bytes::new(), TEST_LIMIT);
    assert_eq!(within_limit(output).await.unwrap(), b"on\n");
}

#[tokio::test]
async fn host_keys_and_identities() {
    let sshd = Sshd::start();
    let timeouts = Timeouts::default();
    let target = sshd.target("client");
    let ed25519 = fingerprint(&sshd.directory.join("host_ed25519.pub"));

    let scanned = within_limit(scan(&target, &timeouts)).await.unwrap();
    assert_eq!(scanned.key.fingerprint(), ed25519);

    let error = within_limit(connect(&target, &HostKeys::default(), &timeouts)).await;
    match error.err().unwrap() {
        ConnectError::UnknownHostKey { fingerprint, .. } => assert_eq!(fingerprint, ed25519),
        other => panic!("{other}"),
    }

    let wrong = sshd.pinned("stranger.pub");
    let error = within_limit(connect(&target, &wrong, &timeouts)).await;
    let error = error.err().unwrap();
    assert!(
        matches!(error, ConnectError::ChangedHostKey { .. }),
        "{error}"
    );

    let stranger = sshd.target("stranger");
    let host_keys = sshd.pinned("host_ed25519.pub");
    let error = within_limit(connect(&stranger, &host_keys, &timeouts)).await;
    match error.err().unwrap() {
        ConnectError::Authentication { tried, .. } => {
            let offered = fingerprint(&sshd.directory.join("stranger.pub"));
            assert!(tried[0].contains(&offered), "{tried:?}");
        }
        other => panic!("{other}"),
    }

    // RSA on both sides, though the server has an ed25519 key too.
    let rsa = sshd.pinned("host_rsa.pub");
    let session = within_limit(connect(&sshd.target("client_rsa"), &rsa, &timeouts)).await;
    let output = session
        .unwrap()
        .run("echo rsa", Bytes::new(), TEST_LIMIT)
        .await;
    assert_eq!(output.unwrap(), b"rsa\n");
}

#[tokio::test]
async fn a_killed_server_ends_what_runs() {
    let sshd = Sshd::start();
    let session = within_limit(sshd.connect()).await;
    // The parent of a command's shell is the server's process for the session.
    let mut process = session.exec("kill -KILL $PPID; sleep 5").await.unwrap();
    let error = within_limit(process.exit.wait()).await.unwrap_err();
    assert!(matches!(error, Error::Lost { .. }), "{error}");
    assert!(error.to_string().contains("the server hung up"), "{error}");
}
