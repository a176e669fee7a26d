//! What we do when the SSH library calls back, and its errors in plain words.

use super::host_keys::HostKey;
use super::link::Link;
use russh::client::{DisconnectReason, Handler};
use russh::keys::PublicKeyOrCertificate;
use std::io::ErrorKind;
use std::sync::{Arc, Mutex, PoisonError};

/// Our side of the library's callbacks.
pub(super) struct ClientHandler {
    /// The only key to accept; none means that no key is accepted.
    pub(super) expected: Option<HostKey>,
    /// The key that the server showed.
    pub(super) seen: Arc<Mutex<Option<HostKey>>>,
    pub(super) link: Arc<Link>,
}

impl Handler for ClientHandler {
    type Error = russh::Error;

    async fn check_server_key(
        &mut self,
        shown: &PublicKeyOrCertificate,
    ) -> Result<bool, Self::Error> {
        // We ask for plain keys only, so a certificate here is a trick.
        let PublicKeyOrCertificate::PublicKey { key, .. } = shown else {
            return Ok(false);
        };
        let shown = HostKey(key.clone());
        let accepted = self.expected.as_ref() == Some(&shown);
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(shown);
        Ok(accepted)
    }

    async fn disconnected(
        &mut self,
        reason: DisconnectReason<Self::Error>,
    ) -> Result<(), Self::Error> {
        match reason {
            DisconnectReason::ReceivedDisconnect(info) => {
                self.link
                    .fail(format!("the server ended it: {}", info.message.trim()));
                Ok(())
            }
            DisconnectReason::Error(error) => {
                self.link.fail(plain(&error));
                Err(error)
            }
        }
    }
}

/// The library's errors in words that help an operator.
pub(super) fn plain(error: &russh::Error) -> String {
    match error {
        russh::Error::Disconnect | russh::Error::HUP => "the server hung up".to_owned(),
        russh::Error::KeepaliveTimeout => {
            "nothing came from the host, though it was asked several times".to_owned()
        }
        russh::Error::Version => "what answers there is not an SSH server".to_owned(),
        russh::Error::IO(error) => match error.kind() {
            ErrorKind::UnexpectedEof => "the server hung up".to_owned(),
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
                "the server hung up (connection reset)".to_owned()
            }
            _ => error.to_string(),
        },
        russh::Error::NoCommonAlgo { kind, ours, theirs } => format!(
            "no {kind:?} algorithm in common: here {}; there {}",
            ours.join(", "),
            theirs.join(", ")
        ),
        other => other.to_string(),
    }
}
