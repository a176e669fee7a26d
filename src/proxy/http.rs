//! As much of HTTP/1.1 as a probe needs: one request, and the answer's status,
//! end and text.

use std::net::SocketAddr;

/// A complete answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Status code, such as 200.
    pub status: u16,
    /// Another request may follow on the same connection.
    pub keep_connection: bool,
    /// The body.
    pub body: String,
}

/// How far an answer has come in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// More bytes are needed.
    Incomplete,
    /// All is there.
    Complete(Answer),
}

/// The probe's request to the API server at `address`.
pub fn request(address: SocketAddr) -> String {
    format!(
        "GET /readyz HTTP/1.1\r\nHost: {address}\r\nUser-Agent: cofferdam-api-proxy/{}\r\n\
         Accept: text/plain\r\n\r\n",
        env!("CARGO_PKG_VERSION")
    )
}

/// Reads what came in so far; `at_end` says that the server closed the
/// connection. The error says what is wrong with the answer.
pub fn parse(received: &[u8], at_end: bool) -> Result<Progress, &'static str> {
    let Some(head_length) = received.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Ok(Progress::Incomplete);
    };
    let head = str::from_utf8(&received[..head_length]).map_err(|_| "its head is not text")?;
    let body = &received[head_length + 4..];
    let mut lines = head.split("\r\n");
    let status_line = lines.next().unwrap_or_default();
    let mut words = status_line.split(' ');
    let version = words.next().unwrap_or_default();
    if !version.starts_with("HTTP/1.") {
        return Err("it is not HTTP/1");
    }
    let status: u16 = words
        .next()
        .and_then(|word| word.parse().ok())
        .ok_or("its status is not a number")?;
    // A 1xx answer would be followed by the real one; nothing here asks for it.
    if !(200..600).contains(&status) {
        return Err("its status is out of range");
    }
    let mut length: Option<usize> = None;
    let mut keep_connection = version == "HTTP/1.1";
    for line in lines {
        let (name, value) = line.split_once(':').ok_or("a header has no colon")?;
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length") {
            length = Some(value.parse().map_err(|_| "its length is not a number")?);
        } else if name.eq_ignore_ascii_case("connection") && value.eq_ignore_ascii_case("close") {
            keep_connection = false;
        }
    }
    let body = match length {
        Some(length) if body.len() >= length => &body[..length],
        Some(_) => return Ok(Progress::Incomplete),
        // Chunked, or until the end of the connection: the status is known and
        // the body is for people only, so the rest isn't waited for.
        None => {
            keep_connection = false;
            body
        }
    };
    Ok(Progress::Complete(Answer {
        status,
        keep_connection: keep_connection && !at_end,
        body: String::from_utf8_lossy(body).into_owned(),
    }))
}

impl Answer {
    /// One line for people: the checks that the API server says have failed
    /// (lines `[-]NAME failed: …`), or else the first line.
    pub fn summary(&self) -> String {
        let failed: Vec<&str> = self
            .body
            .lines()
            .filter_map(|line| line.strip_prefix("[-]"))
            .filter_map(|line| line.split_whitespace().next())
            .collect();
        if failed.is_empty() {
            let first = self.body.lines().next().unwrap_or_default();
            return first
                .chars()
                .filter(|character| !character.is_control())
                .take(120)
                .collect();
        }
        format!("failed checks: {}", failed.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete(status: u16, keep_connection: bool, body: &str) -> Result<Progress, &'static str> {
        Ok(Progress::Complete(Answer {
            status,
            keep_connection,
            body: body.to_owned(),
        }))
    }

    #[test]
    fn reads_answers() {
        let cases: [(&str, bool, Result<Progress, &'static str>); 14] = [
            ("", false, Ok(Progress::Incomplete)),
            (
                "HTTP/1.1 200 OK\r\nContent-Le",
                false,
                Ok(Progress::Incomplete),
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no",
                false,
                Ok(Progress::Incomplete),
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
                false,
                complete(200, true, "ok"),
            ),
            (
                "HTTP/1.1 200 OK\r\ncontent-length:2\r\n\r\nok",
                true,
                complete(200, false, "ok"),
            ),
            (
                "HTTP/1.1 500 Oh\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx",
                false,
                complete(500, false, "x"),
            ),
            (
                "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
                false,
                complete(200, false, ""),
            ),
            (
                "HTTP/1.1 500 Oh\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n",
                false,
                complete(500, false, "1\r\n"),
            ),
            ("SSH-2.0-OpenSSH\r\n\r\n", false, Err("it is not HTTP/1")),
            (
                "HTTP/1.1 abc\r\n\r\n",
                false,
                Err("its status is not a number"),
            ),
            (
                "HTTP/1.1 100 Continue\r\n\r\n",
                false,
                Err("its status is out of range"),
            ),
            (
                "HTTP/1.1 200 OK\r\nnonsense\r\n\r\n",
                false,
                Err("a header has no colon"),
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
                false,
                Err("its length is not a number"),
            ),
            (
                "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n",
                false,
                complete(200, true, ""),
            ),
        ];
        for (text, at_end, expected) in cases {
            assert_eq!(parse(text.as_bytes(), at_end), expected, "{text:?}");
        }
    }

    #[test]
    fn names_the_failed_checks() {
        let body = "[+]ping ok\n[-]etcd failed: reason withheld\n[-]shutdown failed: x\n";
        let answer = Answer {
            status: 500,
            keep_connection: true,
            body: body.to_owned(),
        };
        assert_eq!(answer.summary(), "failed checks: etcd, shutdown");
        let other = Answer {
            body: "Forbidden\u{1b}[2J\nmore".to_owned(),
            ..answer
        };
        assert_eq!(other.summary(), "Forbidden[2J");
    }
}
