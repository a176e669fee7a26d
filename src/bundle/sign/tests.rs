use super::*;
use camino::{Utf8Path, Utf8PathBuf};

fn key_pair(directory: &Utf8Path, name: &str, password: Option<&str>) -> (SigningKey, TrustedKey) {
    let paths = KeyPairPaths {
        secret: directory.join(format!("{name}.key")),
        public: directory.join(format!("{name}.pub")),
    };
    let trusted = generate_key_pair(&paths, password.map(str::to_owned)).unwrap();
    assert_eq!(TrustedKey::load(&paths.public).unwrap(), trusted);
    let ask = |_: &str| Ok(password.unwrap().to_owned());
    let secret = SigningKey::load(&paths.secret, &Password::Prompt(&ask)).unwrap();
    (secret, trusted)
}

fn temporary() -> (tempfile::TempDir, Utf8PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = Utf8PathBuf::from_path_buf(directory.path().to_owned()).unwrap();
    (directory, path)
}

#[test]
fn signing_twice_gives_the_same_bytes() {
    let (_guard, directory) = temporary();
    let (secret, _) = key_pair(&directory, "a", None);
    let first = secret.sign(b"content", "bundle x").unwrap().render();
    assert_eq!(first, secret.sign(b"content", "bundle x").unwrap().render());
    assert_ne!(first, secret.sign(b"content", "bundle y").unwrap().render());
}

#[test]
fn every_flipped_byte_of_a_signature_is_found() {
    let (_guard, directory) = temporary();
    let (secret, trusted) = key_pair(&directory, "a", None);
    let text = secret.sign(b"content", "bundle x").unwrap().render();
    let keys = [trusted];
    assert!(
        Signature::parse(&text)
            .unwrap()
            .verify(b"content", &keys)
            .is_ok()
    );
    for position in 0..text.len() {
        let mut bytes = text.clone().into_bytes();
        bytes[position] ^= 1;
        let accepted = String::from_utf8(bytes)
            .ok()
            .and_then(|text| Signature::parse(&text).ok())
            .is_some_and(|signature| signature.verify(b"content", &keys).is_ok());
        assert!(!accepted, "flipped byte {position}");
    }
}

#[test]
fn problems_name_the_keys() {
    let (_guard, directory) = temporary();
    let (secret, trusted) = key_pair(&directory, "a", None);
    let (_, other) = key_pair(&directory, "b", None);
    let signature = secret.sign(b"content", "x").unwrap();
    let message = signature
        .verify(b"content", std::slice::from_ref(&other))
        .unwrap_err()
        .to_string();
    assert!(message.contains(&secret.id().to_string()), "{message}");
    assert!(message.contains(&other.id().to_string()), "{message}");
    let message = signature
        .verify(b"contenT", &[other, trusted])
        .unwrap_err()
        .to_string();
    assert!(message.contains("damaged or changed"), "{message}");
}

#[test]
fn a_protected_key_needs_its_password() {
    let (_guard, directory) = temporary();
    let (secret, _) = key_pair(&directory, "a", Some("secret word"));
    let path = directory.join("a.key");
    let error = SigningKey::load(&path, &Password::None).unwrap_err();
    assert!(format!("{error:#}").contains("password"), "{error:#}");
    let wrong = |_: &str| Ok("wrong".to_owned());
    assert!(SigningKey::load(&path, &Password::Prompt(&wrong)).is_err());
    let file = directory.join("password");
    fs_err::write(&file, "secret word\n").unwrap();
    let again = SigningKey::load(&path, &Password::File(&file)).unwrap();
    assert_eq!(again.id(), secret.id());
}

#[test]
fn keys_are_never_overwritten() {
    let (_guard, directory) = temporary();
    let (first, _) = key_pair(&directory, "a", None);
    let paths = KeyPairPaths {
        secret: directory.join("a.key"),
        public: directory.join("a.pub"),
    };
    assert!(generate_key_pair(&paths, None).is_err());
    assert_eq!(
        SigningKey::load(&paths.secret, &Password::None)
            .unwrap()
            .id(),
        first.id()
    );
}

#[test]
fn rejects_texts_that_are_no_keys() {
    for bad in ["", "untrusted comment: x\n", "RWQ", "not a key at all"] {
        assert!(TrustedKey::parse(bad).is_err(), "{bad}");
    }
}

/// A key for this test alone, which the standard tool (0.11) made with `minisign -G -W`, and what it signed
/// with it: the same content and comments give the same bytes here.
#[test]
fn keys_and_signatures_are_those_of_the_standard_tool() {
    let (_guard, directory) = temporary();
    let path = directory.join("standard.key");
    fs_err::write(&path, STANDARD_SECRET).unwrap();
    let secret = SigningKey::load(&path, &Password::None).unwrap();
    assert_eq!(
        secret.trusted_key(),
        TrustedKey::parse(STANDARD_PUBLIC).unwrap()
    );
    let signature = secret.sign(b"content\n", "bundle x").unwrap();
    assert_eq!(signature.render(), STANDARD_SIGNATURE);
    let damaged = STANDARD_SECRET.replacen("JKbQst", "JKbRst", 1);
    fs_err::write(&path, damaged).unwrap();
    assert!(SigningKey::load(&path, &Password::None).is_err());
}

const STANDARD_SECRET: &str = concat!(
    "untrusted comment: minisign encrypted secret key\n",
    "RWQAAEIyAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAU21ST+wUlE8pJKbQst1w9v42QcsbqGdlGVBhzjvCmFJZKT9ttEtiQvEcIQJEcAOeDPe24eMwcA3HxU+dIB2lfvnRX0H7spJ0AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n",
);
const STANDARD_PUBLIC: &str = concat!(
    "untrusted comment: minisign public key 4F9414EC4F526D53\n",
    "RWRTbVJP7BSUT/EcIQJEcAOeDPe24eMwcA3HxU+dIB2lfvnRX0H7spJ0\n",
);
const STANDARD_SIGNATURE: &str = concat!(
    "untrusted comment: signature of a cofferdam bundle\n",
    "RURTbVJP7BSUT9Yp2T8+8duGpaXzr5+D2UaiEr5w1XoCvjNt/BnaPeNctSUVCGOyA/4zGIfCzi+wwo9Z5t7jxH9bWlRyH3jHRA4=\n",
    "trusted comment: bundle x\n",
    "inSEyQUp9m0mFF+3/qhJbqnJVI2e0OFjWLasw4jkDT4Z13M+AOsFRiskiQFu/0DHfsJN/F8oKV0lRnL+Tw//DA==\n",
);
