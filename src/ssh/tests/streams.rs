//! Data through processes: whole, in order, and without waiting for each other.

use super::*;
use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Bytes that differ everywhere, so that lost or swapped pieces show.
fn pattern(length: usize, seed: u64) -> Bytes {
    let mut state = seed | 1;
    let mut data = Vec::with_capacity(length);
    while data.len() < length {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        data.extend_from_slice(&state.to_le_bytes());
    }
    data.truncate(length);
    data.into()
}

/// Sends `total` bytes in pieces through `cat` and compares the digests.
async fn echo_through(session: &Session, total: usize) {
    let Process {
        mut stdin,
        mut stdout,
        mut exit,
        ..
    } = session.exec("cat").await.unwrap();
    let piece = pattern(4 * 1024 * 1024, 7);
    let write = async {
        let mut digest = Sha256::new();
        let mut left = total;
        while left > 0 {
            let chunk = piece.slice(..left.min(piece.len()));
            digest.update(&chunk);
            left -= chunk.len();
            stdin.write_bytes(chunk).await.unwrap();
        }
        stdin.finish();
        digest.finalize()
    };
    let read = async {
        let mut digest = Sha256::new();
        let mut received = 0;
        while let Some(chunk) = stdout.next_chunk().await.unwrap() {
            received += chunk.len();
            digest.update(&chunk);
        }
        (received, digest.finalize())
    };
    let (sent, (received, got)) = tokio::join!(write, read);
    assert_eq!(received, total);
    assert_eq!(sent, got);
    assert_eq!(exit.wait().await.unwrap(), Exit::Status(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quarter_of_a_gigabyte_comes_back_intact() {
    let world = World::new(|_| {}).await;
    let session = world.connect(patient()).await;
    let total = 256 * 1024 * 1024;
    within_limit(echo_through(&session, total)).await;
    let transferred = session.transferred();
    for bytes in [transferred.sent, transferred.received] {
        assert!(bytes > total as u64, "{transferred:?}");
        assert!(bytes < total as u64 / 100 * 102, "{transferred:?}");
    }
    session.close().await;
    world.all_hung_up().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_keys_in_the_middle_of_busy_streams() {
    let world = World::new(|options| options.rekey_after = Some(1024 * 1024)).await;
    let session = world.connect(patient()).await;
    within_limit(async {
        tokio::join!(
            echo_through(&session, 12 * 1024 * 1024),
            echo_through(&session, 12 * 1024 * 1024),
        )
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_window_is_only_slow() {
    let world = World::new(|options| options.window = 4096).await;
    let session = world.connect(patient()).await;
    within_limit(echo_through(&session, 2 * 1024 * 1024)).await;
}

#[tokio::test]
async fn asynchronous_reads_and_writes_of_any_size() {
    let world = World::new(|_| {}).await;
    let session = world.connect(patient()).await;
    let Process {
        mut stdin,
        mut stdout,
        exit: _exit,
        ..
    } = session.exec("cat").await.unwrap();
    let data = pattern(700_001, 3);
    let write = async {
        stdin.write_all(&[]).await.unwrap();
        for chunk in data.chunks(300_000) {
            stdin.write_all(chunk).await.unwrap();
        }
        stdin.shutdown().await.unwrap();
        let closed = stdin.write_all(b"late").await.unwrap_err();
        assert_eq!(closed.kind(), std::io::ErrorKind::BrokenPipe);
    };
    let read = async {
        let mut head = [0; 7];
        stdout.read_exact(&mut head).await.unwrap();
        let mut all = head.to_vec();
        stdout.read_to_end(&mut all).await.unwrap();
        all
    };
    let ((), all) = within_limit(async { tokio::join!(write, read) }).await;
    assert!(all == data, "the bytes differ");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_commands_side_by_side() {
    let world = World::new(|_| {}).await;
    let session = world.connect(patient()).await;
    // All of them wait for their input, so all of them run at once.
    let mut running = Vec::new();
    for _ in 0..20 {
        running.push(within_limit(session.exec("cat")).await.unwrap());
    }
    for (number, process) in running.into_iter().enumerate().rev() {
        let Process {
            mut stdin,
            mut stdout,
            mut exit,
            ..
        } = process;
        let data = pattern(100_000 + number, number as u64);
        let read = async {
            let mut all = Vec::new();
            stdout.read_to_end(&mut all).await.unwrap();
            all
        };
        let write = async {
            stdin.write_bytes(data.clone()).await.unwrap();
            stdin.finish();
        };
        let (all, ()) = within_limit(async { tokio::join!(read, write) }).await;
        assert!(all == data, "the bytes of command {number} differ");
        assert_eq!(exit.wait().await.unwrap(), Exit::Status(0));
    }
}

#[tokio::test]
async fn a_server_with_few_channels_is_waited_for() {
    let world = World::new(|options| options.max_channels = 3).await;
    let session = world.connect(patient()).await;
    let commands = (0..12).map(|number| {
        let session = &session;
        async move {
            let command = format!("echo {number}");
            session.run(&command, Bytes::new(), TEST_LIMIT).await
        }
    });
    let outputs = within_limit(futures_util::future::join_all(commands)).await;
    for (number, output) in outputs.into_iter().enumerate() {
        assert_eq!(output.unwrap(), number.to_string().as_bytes());
    }
}

#[tokio::test]
async fn the_end_of_standard_input_arrives() {
    let world = World::new(|_| {}).await;
    let session = world.connect(patient()).await;
    let output = session.run("await-eof", Bytes::new(), TEST_LIMIT);
    assert_eq!(within_limit(output).await.unwrap(), b"eof");

    let data = pattern(3 * 1024 * 1024, 5);
    let output = session.run("count", data.clone(), TEST_LIMIT).await;
    assert_eq!(output.unwrap(), data.len().to_string().as_bytes());

    let process = session.exec("await-eof").await.unwrap();
    assert_eq!(within_limit(process.wait()).await.unwrap(), Exit::Status(0));
}

#[tokio::test]
async fn standard_error_that_nobody_reads_holds_up_nothing() {
    let world = World::new(|_| {}).await;
    let session = world.connect(patient()).await;
    let Process {
        mut stdout,
        stderr,
        mut exit,
        ..
    } = session.exec("complain 16777216").await.unwrap();
    let first = within_limit(stdout.next_chunk()).await.unwrap();
    assert_eq!(first.as_deref(), Some(&b"x"[..]));
    assert_eq!(exit.wait().await.unwrap(), Exit::Status(0));
    assert_eq!(stderr.kept().len(), 256 * 1024);
}

#[tokio::test]
async fn standard_error_can_be_followed() {
    let world = World::new(|_| {}).await;
    let session = world.connect(patient()).await;
    let process = session.exec("fail 4").await.unwrap();
    let mut stderr = process.stderr;
    let mut exit = process.exit;
    let mut text = String::new();
    within_limit(stderr.read_to_string(&mut text))
        .await
        .unwrap();
    assert!(text.starts_with("line 0\n") && text.ends_with("line 29\n"));
    assert_eq!(exit.wait().await.unwrap(), Exit::Status(4));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn output_that_nobody_wants_is_thrown_away() {
    let world = World::new(|_| {}).await;
    let session = world.connect(patient()).await;
    let process = session.exec("zeros 67108864").await.unwrap();
    assert_eq!(within_limit(process.wait()).await.unwrap(), Exit::Status(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn output_that_nobody_takes_is_held_back() {
    let world = World::new(|_| {}).await;
    let session = world.connect(patient()).await;
    let total = 256 << 20;
    let process = session.exec(&format!("zeros {total}")).await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let received = session.transferred().received;
    assert!(received < 32 << 20, "{received} bytes came");
    let mut stdout = process.stdout;
    let mut sum = 0;
    while let Some(chunk) = within_limit(stdout.next_chunk()).await.unwrap() {
        sum += chunk.len();
    }
    assert_eq!(sum, total);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_and_processes_go_between_tasks() {
    let world = World::new(|_| {}).await;
    let (target, host_keys) = (world.target.clone(), world.host_keys.clone());
    let connecting =
        tokio::spawn(async move { connect(&target, &host_keys, &patient()).await.unwrap() });
    let session = std::sync::Arc::new(within_limit(connecting).await.unwrap());
    let tasks = (0..4).map(|_| {
        let session = session.clone();
        tokio::spawn(async move { session.run("echo on", Bytes::new(), TEST_LIMIT).await })
    });
    for output in within_limit(futures_util::future::join_all(tasks)).await {
        assert_eq!(output.unwrap().unwrap(), b"on");
    }
    let process = session.exec("cat").await.unwrap();
    let waiting = tokio::spawn(process.wait());
    assert_eq!(
        within_limit(waiting).await.unwrap().unwrap(),
        Exit::Status(0)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_process_leaves_the_session_alone() {
    let world = World::new(|_| {}).await;
    let session = world.connect(patient()).await;
    for _ in 0..5 {
        // Dropped with its output full to the brim, unread.
        let process = session.exec("zeros 1073741824").await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        drop(process);
        let output = session.run("echo on", Bytes::new(), TEST_LIMIT);
        assert_eq!(within_limit(output).await.unwrap(), b"on");
    }
}
