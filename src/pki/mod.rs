//! Mints keys and certificates. The only randomness and the only clock of
//! the desired state's inputs: what is minted here is kept in the site.

use crate::site::{CertificateSpec, Material, MaterialSpec, Usage};
use anyhow::{Context, Result, bail};
use rand::TryRng;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber,
};
use time::{Duration, OffsetDateTime};

/// Clocks of hosts may lag behind the jump host's by this much and still find
/// a fresh certificate valid.
const BACKDATE: Duration = Duration::hours(1);
/// A CA outlives the hardware that its cluster began on.
const AUTHORITY_VALIDITY: Duration = Duration::days(3650);
/// Sites behind an air gap are visited seldom; two years leave room for a
/// missed visit, and warnings come long before.
const LEAF_VALIDITY: Duration = Duration::days(730);
/// Length of a serial number in bytes; the CA/Browser Forum wants at least 8.
const SERIAL_BYTES: usize = 16;

/// An authority to sign with: its certificate and private key, PEM.
pub struct Authority<'a> {
    pub certificate: &'a str,
    pub key: &'a str,
}

/// Mints one material. `authority` is the one that a certificate's spec
/// names; other specs need none.
///
/// # Errors
/// When a name can't stand in a certificate, or the authority is missing or
/// damaged.
pub fn mint(
    spec: &MaterialSpec,
    authority: Option<&Authority<'_>>,
    now: OffsetDateTime,
) -> Result<Material> {
    match spec {
        MaterialSpec::Authority { common_name } => mint_authority(spec, common_name, now),
        MaterialSpec::Certificate(certificate) => {
            let Some(authority) = authority else {
                bail!("the authority {} is not in the site", certificate.authority);
            };
            mint_leaf(spec, certificate, authority, now)
        }
        MaterialSpec::KeyPair => {
            let key = key_pair()?;
            Ok(Material {
                spec: spec.clone(),
                certificate: None,
                public_key: Some(key.public_key_pem()),
                secret: key.serialize_pem().into_bytes(),
                not_after: None,
            })
        }
        MaterialSpec::Secret { bytes } => Ok(Material {
            spec: spec.clone(),
            certificate: None,
            public_key: None,
            secret: random(*bytes)?,
            not_after: None,
        }),
    }
}

/// Bytes from the system's random source.
///
/// # Errors
/// When the system has none to give.
pub fn random(length: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    rand::rngs::SysRng
        .try_fill_bytes(&mut bytes)
        .context("reading the system's random source")?;
    Ok(bytes)
}

fn key_pair() -> Result<KeyPair> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).context("making an ECDSA P-256 key")
}

fn mint_authority(spec: &MaterialSpec, common_name: &str, now: OffsetDateTime) -> Result<Material> {
    let key = key_pair()?;
    let mut parameters = parameters(common_name, &[], now, AUTHORITY_VALIDITY)?;
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
    ];
    let certificate = parameters
        .self_signed(&key)
        .context("signing a CA certificate")?;
    Ok(Material {
        spec: spec.clone(),
        certificate: Some(certificate.pem()),
        public_key: None,
        secret: key.serialize_pem().into_bytes(),
        not_after: Some(parameters.not_after.unix_timestamp()),
    })
}

fn mint_leaf(
    spec: &MaterialSpec,
    wanted: &CertificateSpec,
    authority: &Authority<'_>,
    now: OffsetDateTime,
) -> Result<Material> {
    let signer = KeyPair::from_pem(authority.key)
        .with_context(|| format!("reading the key of {}", wanted.authority))?;
    let issuer = Issuer::from_ca_cert_pem(authority.certificate, signer)
        .with_context(|| format!("reading the certificate of {}", wanted.authority))?;
    let key = key_pair()?;
    let mut parameters = parameters(
        &wanted.common_name,
        &wanted.organizations,
        now,
        LEAF_VALIDITY,
    )?;
    parameters.use_authority_key_identifier_extension = true;
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = match wanted.usage {
        Usage::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
        Usage::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
        Usage::Both => {
            vec![
                ExtendedKeyUsagePurpose::ServerAuth,
                ExtendedKeyUsagePurpose::ClientAuth,
            ]
        }
    };
    for name in &wanted.dns_names {
        let name = name
            .as_str()
            .try_into()
            .with_context(|| format!("using the name `{name}`"))?;
        parameters.subject_alt_names.push(SanType::DnsName(name));
    }
    let addresses = wanted.addresses.iter().copied().map(SanType::IpAddress);
    parameters.subject_alt_names.extend(addresses);
    let certificate = parameters
        .signed_by(&key, &issuer)
        .with_context(|| format!("signing a certificate for {}", wanted.common_name))?;
    Ok(Material {
        spec: spec.clone(),
        certificate: Some(certificate.pem()),
        public_key: None,
        secret: key.serialize_pem().into_bytes(),
        not_after: Some(parameters.not_after.unix_timestamp()),
    })
}

/// What all certificates have in common. rcgen's defaults are not ours: it
/// makes certificates valid from 1975 to 4096 and without key usages.
fn parameters(
    common_name: &str,
    organizations: &[String],
    now: OffsetDateTime,
    validity: Duration,
) -> Result<CertificateParams> {
    let mut name = DistinguishedName::new();
    for organization in organizations {
        name.push(DnType::OrganizationName, organization.as_str());
    }
    name.push(DnType::CommonName, common_name);
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = name;
    parameters.not_before = now - BACKDATE;
    parameters.not_after = now + validity;
    let mut serial = random(SERIAL_BYTES)?;
    // Positive, and of the same length always.
    serial[0] = serial[0] & 0x7f | 0x40;
    parameters.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(parameters)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;
    use x509_parser::prelude::{FromDer, X509Certificate};

    fn now() -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(1_790_000_000).unwrap()
    }

    fn authority() -> Material {
        mint(
            &MaterialSpec::Authority {
                common_name: "lab etcd CA".into(),
            },
            None,
            now(),
        )
        .unwrap()
    }

    fn leaf(authority: &Material, usage: Usage) -> Material {
        let spec = MaterialSpec::Certificate(CertificateSpec {
            authority: "ca/etcd".into(),
            common_name: "system:node:m1".into(),
            organizations: vec!["system:nodes".into()],
            dns_names: vec!["m1".into(), "localhost".into()],
            addresses: vec![IpAddr::from([10, 77, 1, 11])],
            usage,
        });
        let key = String::from_utf8(authority.secret.clone()).unwrap();
        let certificate = authority.certificate.clone().unwrap();
        let authority = Authority {
            certificate: &certificate,
            key: &key,
        };
        mint(&spec, Some(&authority), now()).unwrap()
    }

    fn der(material: &Material) -> Vec<u8> {
        let pem = material.certificate.clone().unwrap();
        let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).unwrap();
        pem.contents
    }

    #[test]
    fn a_leaf_says_what_its_spec_says_and_is_signed_by_its_authority() {
        let authority = authority();
        let (authority_der, leaf_der) = (der(&authority), der(&leaf(&authority, Usage::Both)));
        let (_, ca) = X509Certificate::from_der(&authority_der).unwrap();
        let (_, certificate) = X509Certificate::from_der(&leaf_der).unwrap();
        assert_eq!(
            certificate.subject().to_string(),
            "O=system:nodes, CN=system:node:m1"
        );
        assert_eq!(certificate.issuer(), ca.subject());
        let names = certificate.subject_alternative_name().unwrap().unwrap();
        let names: Vec<String> = names
            .value
            .general_names
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(names.len(), 3, "{names:?}");
        let usage = certificate.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.server_auth && usage.client_auth && !usage.any);
        assert!(!certificate.is_ca() && ca.is_ca());
        let validity = certificate.validity();
        assert_eq!(
            validity.not_before.timestamp(),
            now().unix_timestamp() - 3600
        );
        assert_eq!(
            validity.not_after.timestamp(),
            now().unix_timestamp() + 730 * 86400
        );
    }

    #[test]
    fn usages_are_no_wider_than_asked() {
        let authority = authority();
        for (usage, server, client) in [(Usage::Client, false, true), (Usage::Server, true, false)]
        {
            let bytes = der(&leaf(&authority, usage));
            let (_, certificate) = X509Certificate::from_der(&bytes).unwrap();
            let found = certificate.extended_key_usage().unwrap().unwrap().value;
            assert_eq!((found.server_auth, found.client_auth), (server, client));
        }
    }

    #[test]
    fn nothing_is_minted_twice_alike() {
        let spec = MaterialSpec::Secret { bytes: 32 };
        let (one, two) = (
            mint(&spec, None, now()).unwrap(),
            mint(&spec, None, now()).unwrap(),
        );
        assert_ne!(one.secret, two.secret);
        assert_eq!(one.secret.len(), 32);
        assert_ne!(der(&authority()), der(&authority()));
    }

    #[test]
    fn a_leaf_without_its_authority_is_an_error_that_names_it() {
        let authority = authority();
        let spec = leaf(&authority, Usage::Client).spec;
        let error = mint(&spec, None, now()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the authority ca/etcd is not in the site"
        );
    }
}
