//! What we offer and ask of the SSH library. Its defaults are not made for
//! long runs: no keepalive, Nagle's algorithm on, slower ciphers first.

use super::Timeouts;
use super::host_keys::HostKey;
use russh::client::Config;
use russh::keys::{Algorithm, EcdsaCurve, HashAlg};
use russh::{Preferred, cipher};
use std::borrow::Cow;
use std::sync::Arc;

/// Keepalives within `Timeouts::silence`. The library gives up one interval
/// after the last of them, hence one less is allowed to stay unanswered.
const KEEPALIVES: u32 = 3;

/// Largest packet that we take. The library allows no more, and it saves
/// overhead on downloads.
const PACKET_SIZE: u32 = 65_535;

/// AES-GCM is several times faster than ChaCha20 where the processor helps, as
/// on every server that can run Kubernetes.
const CIPHERS: &[cipher::Name] = &[
    cipher::AES_256_GCM,
    cipher::AES_128_GCM,
    cipher::CHACHA20_POLY1305,
    cipher::AES_256_CTR,
];

/// Host key algorithms, the preferred one first. RSA with SHA-1 is left out.
const HOST_KEY_ALGORITHMS: [Algorithm; 6] = [
    Algorithm::Ed25519,
    Algorithm::Ecdsa {
        curve: EcdsaCurve::NistP256,
    },
    Algorithm::Ecdsa {
        curve: EcdsaCurve::NistP384,
    },
    Algorithm::Ecdsa {
        curve: EcdsaCurve::NistP521,
    },
    Algorithm::Rsa {
        hash: Some(HashAlg::Sha512),
    },
    Algorithm::Rsa {
        hash: Some(HashAlg::Sha256),
    },
];

/// The configuration for one connection. A server shows the first key that we
/// ask for and it has, so the pinned type comes first.
pub(super) fn client_config(timeouts: &Timeouts, pinned: Option<&HostKey>) -> Arc<Config> {
    Arc::new(Config {
        maximum_packet_size: PACKET_SIZE,
        nodelay: true,
        keepalive_interval: Some(timeouts.silence / KEEPALIVES),
        keepalive_max: KEEPALIVES as usize - 1,
        // Commands may be silent for as long as they like.
        inactivity_timeout: None,
        preferred: Preferred {
            key: Cow::Owned(host_key_order(pinned)),
            cipher: Cow::Borrowed(CIPHERS),
            ..Preferred::DEFAULT
        },
        ..Config::default()
    })
}

fn host_key_order(pinned: Option<&HostKey>) -> Vec<Algorithm> {
    let is_pinned_type = |algorithm: &Algorithm| {
        pinned.is_some_and(|pinned| match pinned.0.algorithm() {
            Algorithm::Rsa { .. } => matches!(algorithm, Algorithm::Rsa { .. }),
            other => *algorithm == other,
        })
    };
    let (mut order, rest): (Vec<_>, Vec<_>) =
        HOST_KEY_ALGORITHMS.into_iter().partition(is_pinned_type);
    order.extend(rest);
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pinned_type_is_asked_for_first() {
        let rsa = russh::keys::PrivateKey::random(
            &mut rand::rng(),
            Algorithm::Ecdsa {
                curve: EcdsaCurve::NistP384,
            },
        )
        .unwrap();
        let names = |pinned: Option<&HostKey>| -> Vec<String> {
            host_key_order(pinned)
                .iter()
                .map(ToString::to_string)
                .collect()
        };
        assert_eq!(
            names(None),
            [
                "ssh-ed25519",
                "ecdsa-sha2-nistp256",
                "ecdsa-sha2-nistp384",
                "ecdsa-sha2-nistp521",
                "rsa-sha2-512",
                "rsa-sha2-256",
            ]
        );
        assert_eq!(
            names(Some(&HostKey(rsa.public_key().clone())))[..3],
            ["ecdsa-sha2-nistp384", "ssh-ed25519", "ecdsa-sha2-nistp256"]
        );
    }

    #[test]
    fn a_silent_link_is_given_up_in_time() {
        let config = client_config(&Timeouts::default(), None);
        let interval = config.keepalive_interval.unwrap();
        let given_up = interval * (config.keepalive_max as u32 + 1);
        assert_eq!(given_up, Timeouts::default().silence);
        assert!(config.nodelay && config.inactivity_timeout.is_none());
    }
}
