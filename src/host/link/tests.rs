//! Calls against an agent that the test plays itself.

use super::*;
use crate::agent::test_host::TestHost;
use crate::agent::{Worker, serve};
use crate::digest::Digest;
use crate::host::frame::{FrameCodec, MAGIC};
use crate::host::{BlobTarget, RunRequest};
use futures_util::StreamExt;
use std::sync::atomic::AtomicUsize;
use tokio::io::{DuplexStream, duplex};
use tokio::sync::Notify;
use tokio_util::codec::FramedRead;

/// No test takes as long unless something hangs.
const TEST_LIMIT: Duration = Duration::from_secs(20);

/// Input of which nothing comes for as long as anybody looks.
struct Idle;

impl Body for Idle {
    fn next(&mut self) -> io::Result<Option<Bytes>> {
        std::thread::sleep(TEST_LIMIT * 2);
        Ok(None)
    }

    fn wait_for_next(&mut self) -> BoxFuture<'_, io::Result<Option<Bytes>>> {
        Box::pin(std::future::pending())
    }
}

/// Pieces one after the other.
struct Pieces(Vec<&'static str>);

impl Body for Pieces {
    fn next(&mut self) -> io::Result<Option<Bytes>> {
        Ok((!self.0.is_empty()).then(|| Bytes::from_static(self.0.remove(0).as_bytes())))
    }
}

/// The agent's end: frames that came, and a way to answer.
struct Played {
    frames: FramedRead<DuplexStream, FrameCodec>,
    output: DuplexStream,
}

impl Played {
    async fn next(&mut self) -> Frame {
        loop {
            match self.frames.next().await.unwrap().unwrap() {
                Frame::Heartbeat => {}
                frame => return frame,
            }
        }
    }

    async fn say(&mut self, frame: Frame) {
        let (header, payload) = frame.encode().unwrap();
        self.output.write_all(&header).await.unwrap();
        self.output.write_all(&payload).await.unwrap();
    }
}

async fn linked() -> (Link, Played) {
    let (ours, mut output) = duplex(1 << 20);
    let (input, theirs) = duplex(1 << 20);
    let hello = Hello {
        protocol: PROTOCOL_VERSION,
        version: "0".to_owned(),
        digest: crate::digest::Digest::of("agent"),
        run: None,
    };
    let line = format!("motd\n{MAGIC}{}\n", serde_json::to_string(&hello).unwrap());
    output.write_all(line.as_bytes()).await.unwrap();
    let pipes = Pipes {
        output: ours,
        input,
        explain: Box::new(String::new),
        carrier: Box::new(()),
    };
    let link = Link::open("m1", pipes).await.unwrap();
    let frames = FramedRead::new(theirs, FrameCodec);
    (link, Played { frames, output })
}

/// A body of many whole pieces, which are counted as they are taken.
struct Pile<'a> {
    left: usize,
    given: &'a AtomicUsize,
}

impl Body for Pile<'_> {
    fn next(&mut self) -> io::Result<Option<Bytes>> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        self.given.fetch_add(1, Ordering::SeqCst);
        Ok(Some(Bytes::from(vec![0; BODY_PIECE])))
    }
}

/// A link to the real agent, which works below a directory.
async fn agent_of(host: &TestHost) -> Link {
    const PIPE: usize = 64 << 10;
    let (ours, output) = duplex(PIPE);
    let (input, theirs) = duplex(PIPE);
    let worker = Worker::with_root(host.root.clone());
    let hello = serve::hello(&host.root).unwrap();
    tokio::spawn(serve::serve(worker, hello, theirs, output));
    let pipes = Pipes {
        output: ours,
        input,
        explain: Box::new(String::new),
        carrier: Box::new(()),
    };
    Link::open("m1", pipes).await.unwrap()
}

fn without_body(program: &str) -> Call<'static> {
    Call {
        request: Request::Run(RunRequest {
            program: program.to_owned(),
            arguments: Vec::new(),
            input: false,
            etcd_endpoints: Vec::new(),
        }),
        body: None,
        notices: &|_| (),
        limit: TEST_LIMIT,
    }
}

fn call<'a>(body: Box<dyn Body + 'a>, notices: &'a (dyn Fn(Notice) + Send + Sync)) -> Call<'a> {
    Call {
        request: Request::Run(RunRequest {
            program: "kubectl".to_owned(),
            arguments: vec!["exec".to_owned()],
            input: true,
            etcd_endpoints: Vec::new(),
        }),
        body: Some(body),
        notices,
        limit: TEST_LIMIT,
    }
}

fn exited(id: u64) -> Frame {
    let result = Box::new(Ok(Response::Exited { status: 3 }));
    Frame::Response { id, result }
}

#[tokio::test]
async fn a_program_is_heard_and_ends_while_its_input_is_idle() {
    let (link, mut agent) = linked().await;
    let heard = Mutex::new(Vec::new());
    let notices = |notice| lock_vec(&heard).push(notice);
    let play = async {
        let Frame::Request { id, .. } = agent.next().await else {
            panic!("a request comes first");
        };
        let notice = Notice::Log {
            line: "hello".to_owned(),
        };
        agent.say(Frame::Notice { id, notice }).await;
        agent.say(exited(id)).await;
        assert!(matches!(agent.next().await, Frame::BodyAbort { .. }));
    };
    let work = async { tokio::join!(link.call(call(Box::new(Idle), &notices)), play) };
    let (response, ()) = timeout(TEST_LIMIT, work).await.unwrap();
    assert!(matches!(response, Ok(Response::Exited { status: 3 })));
    assert_eq!(lock_vec(&heard).len(), 1);
}

#[tokio::test]
async fn a_body_arrives_whole_while_the_host_talks() {
    let (link, mut agent) = linked().await;
    let play = async {
        let Frame::Request { id, .. } = agent.next().await else {
            panic!("a request comes first");
        };
        let mut whole = Vec::new();
        loop {
            let notice = Notice::Log {
                line: "more".to_owned(),
            };
            agent.say(Frame::Notice { id, notice }).await;
            match agent.next().await {
                Frame::Body { bytes, .. } => whole.extend_from_slice(&bytes),
                Frame::BodyEnd { .. } => break,
                other => panic!("{other:?}"),
            }
        }
        agent.say(exited(id)).await;
        whole
    };
    let body = Box::new(Pieces(vec!["a", "bc", "def", "ghij"]));
    let work = async { tokio::join!(link.call(call(body, &|_| ())), play) };
    let (response, whole) = timeout(TEST_LIMIT, work).await.unwrap();
    assert!(matches!(response, Ok(Response::Exited { status: 3 })));
    assert_eq!(whole, b"abcdefghij");
}

#[tokio::test]
async fn a_body_that_nobody_reads_holds_up_no_other_request() {
    let host = TestHost::new();
    // It reads nothing of its input, and ends when the other one has run.
    host.binary(
        "kubectl",
        "until [ -e \"$0.end\" ]; do sleep 0.02; done; exit 5",
    );
    host.binary("etcdctl", "touch \"${0%/*}/kubectl.end\"");
    let link = agent_of(&host).await;
    let given = AtomicUsize::new(0);
    let body = Box::new(Pile {
        left: 4 * BODY_WINDOW,
        given: &given,
    });
    let other = async {
        // Until nothing moves any more.
        let mut before = 0;
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let now = given.load(Ordering::SeqCst);
            if now > 0 && now == before {
                break;
            }
            before = now;
        }
        link.call(without_body("etcdctl")).await
    };
    let work = async { tokio::join!(link.call(call(body, &|_| ())), other) };
    let (unread, other) = timeout(TEST_LIMIT, work).await.unwrap();
    assert!(matches!(other, Ok(Response::Exited { status: 0 })));
    assert!(matches!(unread, Ok(Response::Exited { status: 5 })));
    assert!(given.load(Ordering::SeqCst) < 2 * BODY_WINDOW);
}

#[tokio::test]
async fn a_step_that_fails_early_throws_the_rest_of_its_body_away() {
    let host = TestHost::new();
    host.binary("etcdctl", "exit 6");
    let link = agent_of(&host).await;
    for _ in 0..3 {
        let given = AtomicUsize::new(0);
        let call = Call {
            request: Request::PutBlob {
                digest: Digest::of("small"),
                size: 5,
                target: BlobTarget::Staging,
            },
            body: Some(Box::new(Pile {
                left: 100 * BODY_WINDOW,
                given: &given,
            })),
            notices: &|_| (),
            limit: TEST_LIMIT,
        };
        let error = timeout(TEST_LIMIT, link.call(call)).await.unwrap();
        let error = error.unwrap_err().to_string();
        assert!(error.contains("m1: taking blob"), "{error}");
        assert!(given.load(Ordering::SeqCst) <= 2 * BODY_WINDOW);
        let other = timeout(TEST_LIMIT, link.call(without_body("etcdctl"))).await;
        assert!(matches!(other.unwrap(), Ok(Response::Exited { status: 6 })));
    }
}

#[tokio::test]
async fn pieces_are_sent_only_so_far_ahead_and_others_go_on_meanwhile() {
    const PIECES: usize = 3 * BODY_WINDOW;
    let (link, mut agent) = linked().await;
    let is_full = Notify::new();
    let other = async {
        is_full.notified().await;
        link.call(without_body("etcdctl")).await
    };
    let play = async {
        let Frame::Request { id, .. } = agent.next().await else {
            panic!("a request comes first");
        };
        for _ in 0..BODY_WINDOW {
            assert!(matches!(agent.next().await, Frame::Body { .. }));
        }
        is_full.notify_one();
        let Frame::Request { id: other, .. } = agent.next().await else {
            panic!("nothing was taken of the body, so the other request comes next");
        };
        agent.say(exited(other)).await;
        let mut got = BODY_WINDOW;
        loop {
            agent.say(Frame::BodyTaken { id }).await;
            match agent.next().await {
                Frame::Body { .. } => got += 1,
                Frame::BodyEnd { .. } => break,
                other => panic!("{other:?}"),
            }
        }
        agent.say(exited(id)).await;
        got
    };
    let body = Box::new(Pieces(vec!["x"; PIECES]));
    let work = async { tokio::join!(link.call(call(body, &|_| ())), other, play) };
    let (response, other, got) = timeout(TEST_LIMIT, work).await.unwrap();
    assert!(response.is_ok() && other.is_ok());
    assert_eq!(got, PIECES);
}

#[tokio::test(start_paused = true)]
async fn a_body_may_take_as_long_as_it_moves() {
    const LIMIT: Duration = Duration::from_secs(1);
    // In all it takes twice the limit, or stops in the middle.
    for (taken, expected) in [(10, Ok(())), (5, Err("it takes no more of what is sent"))] {
        let (link, mut agent) = linked().await;
        let play = async {
            let Frame::Request { id, .. } = agent.next().await else {
                panic!("a request comes first");
            };
            for _ in 0..taken {
                tokio::time::sleep(LIMIT / 5).await;
                agent.say(Frame::BodyTaken { id }).await;
            }
            if expected.is_ok() {
                agent.say(exited(id)).await;
            }
        };
        let mut call = call(Box::new(Pieces(vec!["x"; 10])), &|_| ());
        call.limit = LIMIT;
        let work = async { tokio::join!(link.call(call), play) };
        let (response, ()) = timeout(TEST_LIMIT, work).await.unwrap();
        match expected {
            Ok(()) => assert!(response.is_ok()),
            Err(expected) => {
                let error = response.unwrap_err().to_string();
                assert!(error.contains(expected), "{error}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_may_take_as_long_as_it_gets_on() {
    const LIMIT: Duration = Duration::from_secs(1);
    // In all it takes twice the limit, or says the same again and again.
    for step in [1, 0] {
        let (link, mut agent) = linked().await;
        let play = async {
            let Frame::Request { id, .. } = agent.next().await else {
                panic!("a request comes first");
            };
            for number in 0..10 {
                tokio::time::sleep(LIMIT / 5).await;
                let notice = Notice::Progress {
                    item: "stored content".to_owned(),
                    done: number * step,
                    total: 10,
                };
                agent.say(Frame::Notice { id, notice }).await;
            }
            agent.say(exited(id)).await;
        };
        let mut call = without_body("etcdctl");
        call.limit = LIMIT;
        let work = async { tokio::join!(link.call(call), play) };
        let (response, ()) = timeout(TEST_LIMIT, work).await.unwrap();
        assert_eq!(response.is_ok(), step == 1, "{response:?}");
    }
}

fn lock_vec<T>(vec: &Mutex<Vec<T>>) -> MutexGuard<'_, Vec<T>> {
    vec.lock().unwrap_or_else(PoisonError::into_inner)
}

#[tokio::test]
async fn an_agent_that_reads_nothing_is_given_up_by_every_call() {
    let (link, _played) = linked().await;
    let argument = "x".repeat(256 << 10);
    // Far more than the pipe and the link's queue hold.
    let calls = (0..16).map(|_| {
        link.call(Call {
            request: Request::Run(RunRequest {
                program: "kubectl".to_owned(),
                arguments: vec![argument.clone()],
                input: false,
                etcd_endpoints: Vec::new(),
            }),
            body: None,
            notices: &|_| (),
            limit: Duration::from_millis(300),
        })
    });
    let results = timeout(TEST_LIMIT, futures_util::future::join_all(calls)).await;
    for result in results.unwrap() {
        assert!(
            matches!(result, Err(HostError::Timeout { .. })),
            "{result:?}"
        );
    }
}

/// What nobody waits for has ended before the agent does anything else.
#[tokio::test]
async fn a_call_that_is_dropped_ends_at_the_agent_before_the_next_one() {
    let host = TestHost::new();
    let begun = host.root.path("/begun");
    host.binary(
        "kubectl",
        &format!("echo $$ > {begun}.new; mv {begun}.new {begun}; exec sleep 600"),
    );
    host.binary("etcdctl", "exit 3");
    let link = agent_of(&host).await;
    let until_begun = async {
        while !begun.exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        _ = link.call(without_body("kubectl")) => panic!("it ended by itself"),
        () = until_begun => {}
    }
    let process = host.read("/begun");
    let next = timeout(TEST_LIMIT, link.call(without_body("etcdctl")));
    assert!(matches!(
        next.await.unwrap(),
        Ok(Response::Exited { status: 3 })
    ));
    let command = fs_err::read(format!("/proc/{}/cmdline", process.trim()));
    // Killed; its parent may not have heard of it yet.
    assert!(
        command.is_ok_and(|line| line.is_empty())
            || !std::path::Path::new(&format!("/proc/{}", process.trim())).exists()
    );
}

#[test]
fn what_nobody_waits_for_is_told_first_and_not_asked_for_any_more() {
    let mut state = State::default();
    let (sender, _receiver) = mpsc::channel(1);
    state.waiting.insert(2, sender);
    state.cancelled.push(1);
    let request = |id| Frame::Request {
        id,
        request: Box::new(Request::ReadGenerations),
    };
    // It was still waiting for its turn when it was dropped.
    let frames = with_cancelled(&mut state, request(1));
    assert!(
        matches!(frames[..], [Frame::Cancel { id: 1 }]),
        "{frames:?}"
    );
    state.cancelled.push(1);
    let frames = with_cancelled(&mut state, request(2));
    assert!(
        matches!(
            frames[..],
            [Frame::Cancel { id: 1 }, Frame::Request { id: 2, .. }]
        ),
        "{frames:?}"
    );
    assert!(state.cancelled.is_empty());
}
