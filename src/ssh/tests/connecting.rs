//! Host keys, authentication, and servers that aren't what they should be.

use super::*;

#[tokio::test]
async fn scans_without_authenticating_and_connects_with_what_was_scanned() {
    // Nobody may log in, so a scan that tried to would show.
    let world = World::new(|options| options.authorized = Some(Vec::new())).await;
    let scanned = within_limit(scan(&world.target, &quick())).await.unwrap();
    let pinned = world.host_keys.lookup("m1").unwrap();
    assert_eq!(scanned.key, pinned.key);
    assert!(scanned.key.fingerprint().starts_with("SHA256:"));
    let mut host_keys = HostKeys::default();
    assert_eq!(host_keys.record("m1", scanned.pin()), Recorded::Added);
    assert_eq!(host_keys, world.host_keys);
    world.all_hung_up().await;
}

#[tokio::test]
async fn an_unknown_host_key_stops_before_authentication() {
    let mut world = World::new(|_| {}).await;
    let pinned = world.host_keys.lookup("m1").unwrap().key.fingerprint();
    world.host_keys = HostKeys::default();
    let error = world.connect_error(quick()).await;
    assert!(
        matches!(&error, ConnectError::UnknownHostKey { fingerprint, .. } if *fingerprint == pinned),
        "{error}"
    );
    assert!(error.hint().contains("cofferdam hosts trust"));
    world.all_hung_up().await;
}

#[tokio::test]
async fn a_changed_host_key_names_both_keys() {
    let mut world = World::new(|_| {}).await;
    let got = world.host_keys.lookup("m1").unwrap().clone();
    let expected = HostKey(random_key(Algorithm::Ed25519).public_key().clone());
    let changed = PinnedKey {
        key: expected.clone(),
        ..got.clone()
    };
    world.host_keys.record("m1", changed);
    let error = world.connect_error(quick()).await;
    let text = error.to_string();
    assert!(
        matches!(error, ConnectError::ChangedHostKey { .. }),
        "{text}"
    );
    assert!(
        text.contains(&got.key.fingerprint()) && text.contains(&expected.fingerprint()),
        "{text}"
    );
    world.all_hung_up().await;
}

#[tokio::test]
async fn the_pinned_type_of_key_is_asked_for_whatever_else_the_server_has() {
    let ecdsa = Algorithm::Ecdsa {
        curve: russh::keys::EcdsaCurve::NistP256,
    };
    let rsa = Algorithm::Rsa { hash: None };
    for pinned_type in [ecdsa, rsa, Algorithm::Ed25519] {
        let pinned = match pinned_type {
            Algorithm::Rsa { .. } => rsa_key(),
            other => random_key(other),
        };
        let world = World::new(|options| {
            let other = random_key(Algorithm::Ed25519);
            options.host_keys = if pinned.algorithm() == Algorithm::Ed25519 {
                vec![
                    pinned.clone(),
                    random_key(Algorithm::Ecdsa {
                        curve: russh::keys::EcdsaCurve::NistP256,
                    }),
                ]
            } else {
                vec![pinned.clone(), other]
            };
        })
        .await;
        let session = within_limit(world.connect(patient())).await;
        let output = session
            .run("echo hello", bytes::Bytes::new(), TEST_LIMIT)
            .await;
        assert_eq!(output.unwrap(), b"hello");
        session.close().await;
    }
}

#[tokio::test]
async fn a_server_that_lost_the_pinned_type_has_a_changed_key() {
    let mut world = World::new(|_| {}).await;
    let other = random_key(Algorithm::Ecdsa {
        curve: russh::keys::EcdsaCurve::NistP256,
    });
    let address = world.server.address();
    let key = HostKey(other.public_key().clone());
    world.host_keys.record("m1", PinnedKey { address, key });
    let text = world.connect_error(quick()).await.to_string();
    assert!(
        text.contains("expected ecdsa-sha2-nistp256 SHA256:")
            && text.contains("got ssh-ed25519 SHA256:"),
        "{text}"
    );
}

#[tokio::test]
async fn refused_authentication_says_what_was_tried() {
    let world = World::new(|options| options.authorized = Some(Vec::new())).await;
    let error = world.connect_error(quick()).await;
    let ConnectError::Authentication { user, tried, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(user, "root");
    let fingerprint = world
        .client_key
        .public_key()
        .fingerprint(russh::keys::HashAlg::Sha256)
        .to_string();
    assert!(tried[0].contains(&fingerprint), "{tried:?}");
    assert!(tried[0].contains("id_ed25519"), "{tried:?}");
    world.all_hung_up().await;
}

#[tokio::test]
async fn identities_that_cannot_be_used_are_no_connection_problem() {
    let mut world = World::new(|_| {}).await;
    world.target.identity = Identity::KeyFile("/nowhere/id_ed25519".into());
    let error = world.connect_error(quick()).await;
    assert!(matches!(error, ConnectError::Identity { .. }), "{error}");
    assert!(error.to_string().contains("/nowhere/id_ed25519"));
}

#[tokio::test]
async fn noise_before_the_first_line_does_no_harm() {
    let world = World::new(|options| {
        options.noise = vec![
            "Authorized use only.".to_owned(),
            "SSH is monitored; ssh-2.0 everywhere".to_owned(),
            String::new(),
        ];
    })
    .await;
    let session = within_limit(world.connect(patient())).await;
    let output = session.run("echo hello", bytes::Bytes::new(), TEST_LIMIT);
    assert_eq!(within_limit(output).await.unwrap(), b"hello");
}

#[tokio::test]
async fn servers_that_are_no_ssh_servers() {
    type Change = fn(&mut ServerOptions);
    let cases: [(Change, &str); 4] = [
        (
            |options| options.mute_after = Some(""),
            "shaking hands over SSH took longer than 1 s",
        ),
        (
            |options| options.mute_after = Some("SSH-2.0-Mute_1.0\r\n"),
            "shaking hands over SSH took longer than 1 s",
        ),
        (
            |options| options.other_protocol = Some("HTTP/1.1 400 Bad Request\r\n\r\n"),
            "shaking hands over SSH failed: ",
        ),
        (
            |options| options.close_after_received = Some(300),
            "shaking hands over SSH failed: the server hung up",
        ),
    ];
    for (change, expected) in cases {
        let world = World::new(change).await;
        let text = world.connect_error(quick()).await.to_string();
        assert!(text.contains(expected), "{text}\nlacks\n{expected}");
        world.all_hung_up().await;
        let error = within_limit(scan(&world.target, &quick())).await;
        assert!(error.unwrap_err().to_string().contains("m1 ("));
        world.all_hung_up().await;
    }
}

#[tokio::test]
async fn connecting_that_nobody_waits_for_ends() {
    // Before and after the library starts a task of its own.
    for text in ["", "SSH-2.0-Mute_1.0\r\n"] {
        let world = World::new(|options| options.mute_after = Some(text)).await;
        let patience = patient();
        let connecting = connect(&world.target, &world.host_keys, &patience);
        let limit = Duration::from_millis(200);
        assert!(tokio::time::timeout(limit, connecting).await.is_err());
        world.all_hung_up().await;
    }
}

#[tokio::test]
async fn nothing_listens() {
    let world = World::new(|_| {}).await;
    let mut target = world.target.clone();
    // A port that was free a moment ago.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    target.port = listener.local_addr().unwrap().port();
    drop(listener);
    let result = within_limit(connect(&target, &world.host_keys, &quick())).await;
    let error = result.err().expect("nobody is there");
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("refused"), "{error}");
    let hint = error.hint();
    assert!(hint.contains(&format!("TCP {}", target.port)), "{hint}");
}

/// An ssh-agent of the test's own.
struct Agent {
    process: std::process::Child,
    directory: tempfile::TempDir,
}

impl Agent {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let process = std::process::Command::new("ssh-agent")
            .arg("-D")
            .arg("-a")
            .arg(directory.path().join("socket"))
            .stdout(std::process::Stdio::null())
            .spawn()
            .expect("starting ssh-agent, of the package openssh-client");
        let agent = Self { process, directory };
        for _ in 0..500 {
            if std::os::unix::net::UnixStream::connect(agent.socket()).is_ok() {
                return agent;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("ssh-agent doesn't listen");
    }

    fn socket(&self) -> camino::Utf8PathBuf {
        let path = self.directory.path().join("socket");
        camino::Utf8PathBuf::from_path_buf(path).unwrap()
    }

    fn add(&self, key: &PrivateKey) {
        let path = self.directory.path().join("key");
        let text = key.to_openssh(LineEnding::LF).unwrap();
        fs_err::write(&path, text.as_bytes()).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs_err::set_permissions(&path, mode).unwrap();
        let output = std::process::Command::new("ssh-add")
            .arg(&path)
            .env("SSH_AUTH_SOCK", self.socket())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

#[tokio::test]
async fn the_agent_s_keys_are_tried_in_turn() {
    use crate::ssh::connect::{Attempt, Credentials};
    let right = rsa_key();
    let world = World::new(|options| options.authorized = Some(vec![right.public_key().clone()]));
    let world = within_limit(world).await;
    let agent = Agent::start();
    let log_in = async |socket| {
        let attempt = Attempt::pinned(&world.target, &world.host_keys, patient());
        within_limit(attempt.log_in("root", &Credentials::Agent(socket))).await
    };

    let error = log_in("/nowhere/socket".into()).await.err().unwrap();
    assert!(error.to_string().contains("/nowhere/socket"), "{error}");
    let error = log_in(agent.socket()).await.err().unwrap();
    assert!(error.to_string().contains("it holds no keys"), "{error}");
    assert!(error.hint().contains("ssh-add"), "{}", error.hint());

    agent.add(&random_key(Algorithm::Ed25519));
    let error = log_in(agent.socket()).await.err().unwrap();
    let text = error.to_string();
    assert!(
        text.contains("from the agent (ssh-ed25519 SHA256:"),
        "{text}"
    );

    agent.add(&right);
    let session = log_in(agent.socket()).await.unwrap();
    let output = session.run("echo hello", bytes::Bytes::new(), TEST_LIMIT);
    assert_eq!(within_limit(output).await.unwrap(), b"hello");
}

/// An RSA key by ssh-keygen: without optimization, making one here takes long.
fn rsa_key() -> PrivateKey {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rsa");
    let status = std::process::Command::new("ssh-keygen")
        .args(["-q", "-t", "rsa", "-b", "2048", "-N", "", "-f"])
        .arg(&path)
        .status()
        .expect("starting ssh-keygen, of the package openssh-client");
    assert!(status.success());
    PrivateKey::from_openssh(fs_err::read(path).unwrap()).unwrap()
}
