//! Calls against an agent that the test plays itself.

use super::*;
use crate::host::RunRequest;
use tokio::io::{DuplexStream, duplex};

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

fn call(body: Box<dyn Body>, notices: &(dyn Fn(Notice) + Send + Sync)) -> Call<'_> {
    Call {
        request: Request::Run(RunRequest {
            program: "kubectl".to_owned(),
            arguments: vec!["exec".to_owned()],
            input: true,
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

fn lock_vec<T>(vec: &Mutex<Vec<T>>) -> MutexGuard<'_, Vec<T>> {
    vec.lock().unwrap_or_else(PoisonError::into_inner)
}
