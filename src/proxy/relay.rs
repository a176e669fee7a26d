//! Copies bytes both ways between two TCP connections.

use std::cell::RefCell;
use std::io;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};

/// Bytes that are read at once: two of the largest TLS records. More gains
/// little over loopback and a site's network.
const CHUNK: usize = 32 * 1024;

thread_local! {
    /// One buffer for all connections of a thread: bytes stay in it only
    /// between a read and the write right after it. Connections to an API
    /// server are idle most of the time, and thousands of private buffers would
    /// be most of the proxy's memory.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; CHUNK]);
}

/// Copies until both sides have ended. When one side ends its sending half,
/// the other is told so and may go on sending; an error of either ends both.
pub async fn relay(left: &mut TcpStream, right: &mut TcpStream) -> io::Result<()> {
    let (left_read, left_write) = left.split();
    let (right_read, right_write) = right.split();
    tokio::try_join!(copy(left_read, right_write), copy(right_read, left_write))?;
    Ok(())
}

/// What one read and the write after it came to.
enum Step {
    NothingYet,
    End,
    AllWritten,
    /// The writer took less; these bytes are still to be written.
    Left(Vec<u8>),
}

async fn copy(reader: ReadHalf<'_>, mut writer: WriteHalf<'_>) -> io::Result<()> {
    loop {
        reader.readable().await?;
        match SCRATCH.with_borrow_mut(|buffer| step(&reader, &writer, buffer))? {
            Step::NothingYet | Step::AllWritten => {}
            Step::Left(bytes) => writer.write_all(&bytes).await?,
            Step::End => return end(&mut writer).await,
        }
    }
}

fn step(reader: &ReadHalf<'_>, writer: &WriteHalf<'_>, buffer: &mut [u8]) -> io::Result<Step> {
    let read = match reader.try_read(buffer) {
        Ok(0) => return Ok(Step::End),
        Ok(read) => read,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Step::NothingYet),
        Err(error) => return Err(error),
    };
    match writer.try_write(&buffer[..read]) {
        Ok(written) if written == read => Ok(Step::AllWritten),
        Ok(written) => Ok(Step::Left(buffer[written..read].to_vec())),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Ok(Step::Left(buffer[..read].to_vec()))
        }
        Err(error) => Err(error),
    }
}

/// Ends the sending half. A peer that has already gone can't be told.
async fn end(writer: &mut WriteHalf<'_>) -> io::Result<()> {
    match writer.shutdown().await {
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (dialed, accepted) = tokio::join!(
            TcpStream::connect(listener.local_addr().unwrap()),
            listener.accept()
        );
        (dialed.unwrap(), accepted.unwrap().0)
    }

    /// A client and a server with a relay between them.
    async fn relayed() -> (
        TcpStream,
        TcpStream,
        tokio::task::JoinHandle<io::Result<()>>,
    ) {
        let (client, mut left) = pair().await;
        let (server, mut right) = pair().await;
        let task = tokio::spawn(async move { relay(&mut left, &mut right).await });
        (client, server, task)
    }

    /// Bytes that differ by place and by seed.
    fn bytes(seed: u64, length: usize) -> Vec<u8> {
        let mut state = seed;
        std::iter::repeat_with(|| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 56) as u8
        })
        .take(length)
        .collect()
    }

    #[tokio::test]
    async fn carries_ten_megabytes_both_ways_at_once() {
        const LENGTH: usize = 10 * 1024 * 1024;
        let (mut client, mut server, task) = relayed().await;
        let (up, down) = (bytes(1, LENGTH), bytes(2, LENGTH));
        let (mut got_up, mut got_down) = (Vec::new(), Vec::new());
        {
            let (mut client_read, mut client_write) = client.split();
            let (mut server_read, mut server_write) = server.split();
            tokio::try_join!(
                async {
                    client_write.write_all(&up).await?;
                    client_write.shutdown().await
                },
                async {
                    server_write.write_all(&down).await?;
                    server_write.shutdown().await
                },
                server_read.read_to_end(&mut got_up),
                client_read.read_to_end(&mut got_down),
            )
            .unwrap();
        }
        assert!(got_up == up && got_down == down);
        task.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_half_that_ended_leaves_the_other_open() {
        let (mut client, mut server, task) = relayed().await;
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut question = Vec::new();
        server.read_to_end(&mut question).await.unwrap();
        assert_eq!(question, b"question");
        // The server's half is still open after the client's has ended.
        server.write_all(b"answer").await.unwrap();
        server.shutdown().await.unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"answer");
        task.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_reader_that_pauses_loses_nothing() {
        const LENGTH: usize = 24 * 1024 * 1024;
        let (mut client, mut server, task) = relayed().await;
        let sent = bytes(3, LENGTH);
        let expected = sent.clone();
        let sender = tokio::spawn(async move {
            server.write_all(&sent).await.unwrap();
            server.shutdown().await.unwrap();
            server
        });
        // More is on its way than all socket buffers hold, so the relay has
        // to keep what the paused client does not take.
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        let mut received = Vec::new();
        client.read_to_end(&mut received).await.unwrap();
        assert!(received == expected);
        client.shutdown().await.unwrap();
        drop(sender.await.unwrap());
        task.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_reset_ends_both_directions() {
        let (client, mut server, task) = relayed().await;
        client.set_zero_linger().unwrap();
        drop(client);
        assert!(task.await.unwrap().is_err());
        let mut rest = Vec::new();
        let _ = server.read_to_end(&mut rest).await;
    }
}
