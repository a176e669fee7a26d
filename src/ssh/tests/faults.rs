//! What goes wrong after a connection stands.

use super::*;
use bytes::Bytes;

async fn run_error(session: &Session, command: &str) -> Error {
    let output = session.run(command, Bytes::new(), TEST_LIMIT);
    let error = within_limit(output).await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("m1 (127.0.0.1:"), "{text}");
    assert!(!error.hint().is_empty());
    error
}

#[tokio::test]
async fn a_failing_command_shows_its_last_lines() {
    let world = World::new(|_| {}).await;
    let session = world.connect(patient()).await;
    let text = run_error(&session, "fail 7").await.to_string();
    assert!(text.starts_with("running `fail 7` on m1 ("), "{text}");
    assert!(text.contains("exit status 7\n  line 10\n"), "{text}");
    assert!(text.ends_with("\n  line 29"), "{text}");

    let output = session.output("fail 7", Bytes::new(), TEST_LIMIT).await;
    let output = output.unwrap();
    assert_eq!(output.exit, Exit::Status(7));
    assert!(output.stderr.starts_with(b"line 0\n"));
}

#[tokio::test]
async fn ends_that_are_no_exit_status() {
    let world = World::new(|_| {}).await;
    let session = world.connect(patient()).await;
    let text = run_error(&session, "die").await.to_string();
    assert!(text.contains("killed by SIGKILL (out of memory)"), "{text}");
    let text = run_error(&session, "no-status").await.to_string();
    assert!(text.contains("ended without an exit status"), "{text}");
}

#[tokio::test]
async fn a_status_before_the_last_data_loses_nothing() {
    let world = World::new(|_| {}).await;
    let session = world.connect(patient()).await;
    let output = session.run("early-status", Bytes::new(), TEST_LIMIT).await;
    assert_eq!(output.unwrap().len(), 1024 * 1024);
}

#[tokio::test]
async fn a_command_that_never_ends_is_given_up() {
    let world = World::new(|_| {}).await;
    let session = world.connect(patient()).await;
    let limit = Duration::from_millis(300);
    let output = session.run("hang", Bytes::new(), limit);
    let text = within_limit(output).await.unwrap_err().to_string();
    assert!(text.contains("no end after 0.3 s\n  still here"), "{text}");
    let output = session.run("echo on", Bytes::new(), TEST_LIMIT).await;
    assert_eq!(output.unwrap(), b"on", "the session lives on");
}

#[tokio::test]
async fn a_process_that_reads_nothing_breaks_the_pipe() {
    // Its window is far smaller than what is written.
    let world = World::new(|options| options.window = 4096).await;
    let session = world.connect(patient()).await;
    let data = Bytes::from(vec![1; 1024 * 1024]);
    let output = session.output("deaf", data.clone(), TEST_LIMIT);
    assert_eq!(within_limit(output).await.unwrap().exit, Exit::Status(3));

    let mut process = session.exec("deaf").await.unwrap();
    let error = within_limit(async {
        loop {
            if let Err(error) = process.stdin.write_bytes(data.clone()).await {
                return error;
            }
        }
    })
    .await;
    assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
    let text = error.to_string();
    assert!(
        text.contains("`deaf` on m1 (") && text.contains("exit status 3"),
        "{text}"
    );
}

#[tokio::test]
async fn commands_and_channels_that_are_refused() {
    let world = World::new(|options| options.refuse_commands = true).await;
    let session = world.connect(quick()).await;
    let text = run_error(&session, "echo x").await.to_string();
    assert!(text.contains("the server refused to run it"), "{text}");

    let world = World::new(|options| options.max_channels = 0).await;
    let session = world.connect(quick()).await;
    let text = run_error(&session, "echo x").await.to_string();
    assert!(
        text.contains("the server refused another channel (ConnectFailed) while 0 of ours"),
        "{text}"
    );

    let world = World::new(|options| options.ignore_channels = true).await;
    let session = world.connect(Timeouts {
        start: Duration::from_millis(300),
        ..quick()
    });
    let text = run_error(&session.await, "echo x").await.to_string();
    assert!(text.contains("did not open a channel in time"), "{text}");
}

#[tokio::test]
async fn a_connection_that_breaks_ends_every_stream_with_an_error() {
    let world = World::new(|options| options.close_after_received = Some(200_000)).await;
    let session = world.connect(patient()).await;
    let Process {
        mut stdin,
        mut stdout,
        mut exit,
        ..
    } = session.exec("cat").await.unwrap();
    let write = async {
        loop {
            if let Err(error) = stdin.write_bytes(Bytes::from(vec![1; 50_000])).await {
                return error;
            }
        }
    };
    let read = async {
        loop {
            match stdout.next_chunk().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("a broken connection looks like an end of file"),
                Err(error) => return error,
            }
        }
    };
    let (write_error, read_error) = within_limit(async { tokio::join!(write, read) }).await;
    let exit_error = within_limit(exit.wait()).await.unwrap_err();
    for text in [
        write_error.to_string(),
        read_error.to_string(),
        exit_error.to_string(),
        within_limit(session.lost()).await.to_string(),
        run_error(&session, "echo x").await.to_string(),
    ] {
        assert!(
            text.contains("the connection to m1 (") && text.contains("the last byte came"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn a_dead_link_is_noticed_while_waiting() {
    let world = World::new(|_| {}).await;
    let session = world.connect(quick()).await;
    let mut process = session.exec("await-eof").await.unwrap();
    world.server.stall();
    let error = within_limit(process.exit.wait()).await.unwrap_err();
    let Error::Lost {
        reason, silent_for, ..
    } = &error
    else {
        panic!("{error}");
    };
    assert!(reason.contains("nothing came"), "{reason}");
    assert!(*silent_for >= quick().silence / 3, "{silent_for:?}");
}

#[tokio::test]
async fn a_dead_link_is_noticed_in_the_middle_of_an_upload() {
    let world = World::new(|_| {}).await;
    let session = world.connect(quick()).await;
    let Process {
        mut stdin,
        mut exit,
        ..
    } = session.exec("count").await.unwrap();
    let chunk = Bytes::from(vec![1; 1024 * 1024]);
    let mut written = 0;
    let error = within_limit(async {
        loop {
            if let Err(error) = stdin.write_bytes(chunk.clone()).await {
                return error;
            }
            written += 1;
            if written == 20 {
                world.server.stall();
            }
        }
    })
    .await;
    assert!(error.to_string().contains("was lost"), "{error}");
    let error = within_limit(exit.wait()).await.unwrap_err();
    assert!(matches!(error, Error::Lost { .. }), "{error}");
}

#[tokio::test]
async fn a_link_that_is_only_quiet_stays() {
    let world = World::new(|_| {}).await;
    let session = world.connect(quick()).await;
    let process = session.exec("await-eof").await.unwrap();
    tokio::time::sleep(quick().silence * 3).await;
    assert_eq!(within_limit(process.wait()).await.unwrap(), Exit::Status(0));
}

#[tokio::test]
async fn closing_ends_processes_and_the_connection() {
    let world = World::new(|_| {}).await;
    let session = world.connect(patient()).await;
    let mut process = session.exec("await-eof").await.unwrap();
    within_limit(session.close()).await;
    let error = within_limit(process.exit.wait()).await.unwrap_err();
    assert!(matches!(error, Error::Lost { .. }), "{error}");
    world.all_hung_up().await;

    // Just dropped: the connection ends with the last process.
    let session = world.connect(patient()).await;
    let process = session.exec("await-eof").await.unwrap();
    drop(session);
    assert_eq!(within_limit(process.wait()).await.unwrap(), Exit::Status(0));
    world.all_hung_up().await;
}

#[tokio::test]
async fn closing_a_dead_link_does_not_wait() {
    let world = World::new(|_| {}).await;
    let session = world.connect(patient()).await;
    world.server.stall();
    within_limit(session.close()).await;
}
