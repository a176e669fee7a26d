//! Downloads of plain files over HTTP(S) or from a directory.

use super::retry::{Failure, with_retries, with_retries_while};
use super::{CONNECT_TIMEOUT, FetchOptions, Mirrors, READ_TIMEOUT, chain, check_authorities};
use crate::bundle::cache::{BlobWriter, Cache, WrongDigest};
use crate::bundle::hash::COPY_BUFFER_BYTES;
use crate::bundle::progress::Progress;
use crate::digest::Digest;
use anyhow::{Context, Result, anyhow};
use fs_err as fs;
use futures_util::StreamExt as _;
use reqwest::StatusCode;
use reqwest::header::{CONTENT_RANGE, RANGE};
use std::io::{Read as _, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};

/// Checksum files larger than this are none; the largest in use list some hundred
/// files.
const TEXT_LIMIT_BYTES: usize = 1024 * 1024;

/// One file to download.
#[derive(Debug, Clone, Copy)]
pub struct Download<'a> {
    /// Upstream's address; mirrors apply to it.
    pub url: &'a str,
    /// Name of the stage and item to report progress under.
    pub stage: &'a str,
    pub item: &'a str,
    /// What it must be. `None` takes whatever comes.
    pub expected: Option<Digest>,
}

/// Fetches files into the cache.
#[derive(Debug, Clone)]
pub struct Downloader {
    client: reqwest::Client,
    mirrors: Mirrors,
}

impl Downloader {
    pub fn new(options: &FetchOptions) -> Result<Self> {
        check_authorities()?;
        let mut builder = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .user_agent(concat!("cofferdam/", env!("CARGO_PKG_VERSION")));
        if let Some(path) = &options.ca_file {
            let certificates = reqwest::Certificate::from_pem_bundle(&fs::read(path)?)
                .with_context(|| format!("reading certificate authorities from {path}"))?;
            builder = builder.tls_certs_merge(certificates);
        }
        let client = builder.build().context("setting up the downloader")?;
        Ok(Self {
            client,
            mirrors: options.mirrors.clone(),
        })
    }

    /// Fetches a small text, such as a checksum file.
    pub async fn text(&self, url: &str) -> Result<String> {
        let address = self.mirrors.apply(url);
        let fetch = || async {
            if let Some(path) = address.strip_prefix("file://") {
                return fs::read(path).map_err(|error| Failure::Lasting(error.into()));
            }
            let mut response = self.get(&address).await?;
            let mut content = Vec::new();
            while let Some(chunk) = response.chunk().await.map_err(passing)? {
                content.extend_from_slice(&chunk);
                if content.len() > TEXT_LIMIT_BYTES {
                    let error = anyhow!("it is larger than {TEXT_LIMIT_BYTES} bytes");
                    return Err(Failure::Lasting(error));
                }
            }
            Ok(content)
        };
        let content = with_retries(fetch)
            .await
            .with_context(|| fetching(url, &address))?;
        String::from_utf8(content)
            .map_err(|_| anyhow!("it is not text"))
            .with_context(|| fetching(url, &address))
    }

    /// Fetches a file into the cache and gives its digest and size in bytes. What the
    /// cache holds already is not fetched.
    pub async fn fetch(
        &self,
        download: Download<'_>,
        cache: &Cache,
        progress: &dyn Progress,
    ) -> Result<(Digest, u64)> {
        if let Some(digest) = download.expected
            && let Some(size) = cache.blob_size(&digest)
        {
            return Ok((digest, size));
        }
        let address = self.mirrors.apply(download.url);
        let came = AtomicU64::new(0);
        let attempt = || async {
            let advance = |done: u64, total: Option<u64>| {
                came.fetch_max(done, Ordering::Relaxed);
                progress.advance(download.stage, download.item, done, total);
            };
            // What is not known cannot be gone on with: it may have changed.
            let writer = match &download.expected {
                Some(expected) => cache.resume(expected),
                None => cache.writer(),
            };
            let writer = writer.map_err(Failure::Lasting)?;
            let writer = match address.strip_prefix("file://") {
                Some(path) => copy_file(path, writer, &advance).map_err(Failure::Lasting)?,
                None => self.stream(&address, writer, &advance).await?,
            };
            let length = writer.length();
            let outcome = match download.expected {
                Some(expected) => writer.commit_as(&expected).map(|length| (expected, length)),
                None => return writer.commit().map_err(Failure::Lasting),
            };
            outcome.map_err(|error| match error {
                // A proxy's error page or a cut transfer; a second try tells.
                WrongDigest::Differs { .. } => Failure::Passing(error.into()),
                WrongDigest::Store(_) => {
                    Failure::Lasting(anyhow!(error).context(format!("after {length} bytes")))
                }
            })
        };
        let (digest, size) = with_retries_while(&|| came.load(Ordering::Relaxed), attempt)
            .await
            .with_context(|| fetching(download.url, &address))?;
        progress.advance(download.stage, download.item, size, Some(size));
        Ok((digest, size))
    }

    async fn get(&self, address: &str) -> Result<reqwest::Response, Failure> {
        self.answer(self.client.get(address)).await
    }

    async fn answer(&self, request: reqwest::RequestBuilder) -> Result<reqwest::Response, Failure> {
        let response = request.send().await.map_err(passing)?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let error = anyhow!("the server answers {status}");
        // 408 and 429 ask to come back later.
        if status.is_server_error() || matches!(status.as_u16(), 408 | 429) {
            Err(Failure::Passing(error))
        } else {
            Err(Failure::Lasting(error))
        }
    }

    /// Writes a response's body while it comes, from where the writer stands if the
    /// server can. The writes are short and go to the page cache, so they are not
    /// worth a thread of their own.
    async fn stream(
        &self,
        address: &str,
        mut writer: BlobWriter,
        advance: &(dyn Fn(u64, Option<u64>) + Sync),
    ) -> Result<BlobWriter, Failure> {
        let storing =
            |error| Failure::Lasting(anyhow::Error::from(error).context("writing to the cache"));
        let mut request = self.client.get(address);
        if writer.length() > 0 {
            request = request.header(RANGE, format!("bytes={}-", writer.length()));
        }
        let response = match self.answer(request).await {
            Ok(response) => response,
            // It has not as much as there is here, so that is not its beginning.
            Err(Failure::Lasting(_)) if writer.length() > 0 => {
                writer.restart().map_err(storing)?;
                self.get(address).await?
            }
            Err(failure) => return Err(failure),
        };
        if writer.length() > 0 && !goes_on(&response, writer.length()) {
            writer.restart().map_err(storing)?;
        }
        let total = response.content_length().map(|rest| writer.length() + rest);
        let mut body = response.bytes_stream();
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(passing)?;
            writer.write_all(&chunk).map_err(storing)?;
            advance(writer.length(), total);
        }
        Ok(writer)
    }
}

/// Whether a response is what follows so many bytes.
fn goes_on(response: &reqwest::Response, length: u64) -> bool {
    let range = response.headers().get(CONTENT_RANGE);
    let range = range
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    response.status() == StatusCode::PARTIAL_CONTENT
        && range.starts_with(&format!("bytes {length}-"))
}

fn copy_file(
    path: &str,
    mut writer: BlobWriter,
    advance: &dyn Fn(u64, Option<u64>),
) -> Result<BlobWriter> {
    // Nothing cuts off a file.
    writer.restart()?;
    let mut file = fs::File::open(path)?;
    let total = file.metadata()?.len();
    let mut buffer = vec![0; COPY_BUFFER_BYTES];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(writer);
        }
        writer
            .write_all(&buffer[..read])
            .context("writing to the cache")?;
        advance(writer.length(), Some(total));
    }
}

fn passing(error: reqwest::Error) -> Failure {
    let text = chain(&error);
    if error.is_builder() || error.is_redirect() {
        Failure::Lasting(anyhow!(text))
    } else {
        Failure::Passing(anyhow!(text))
    }
}

/// Names both addresses: what was asked for, and where it was looked for.
fn fetching(url: &str, address: &str) -> String {
    if url == address {
        format!("fetching {url}")
    } else {
        format!("fetching {url} from mirror {address}")
    }
}
