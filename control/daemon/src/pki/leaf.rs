//! Certificates of servers and clients, and requests for them, written as DER.
//!
//! In: names, keys, times. Out: the bytes that are signed, and with their signature the whole. rcgen writes the CA alone: it
//! keeps one value of a kind of name, and a client is a member of many groups.

use rcgen::{KeyPair, PublicKeyData as _, SigningKey as _};
use rustls_pki_types::alg_id;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer as _;
use x509_parser::time::ASN1Time;
use yasna::models::ObjectIdentifier;
use yasna::{DERWriter, DERWriterSeq, Tag};

use super::{Error, Identity};

const COMMON_NAME: &[u64] = &[2, 5, 4, 3];
const ORGANIZATION: &[u64] = &[2, 5, 4, 10];
const KEY_USAGE: &[u64] = &[2, 5, 29, 15];
const ALTERNATIVE_NAMES: &[u64] = &[2, 5, 29, 17];
const BASIC_CONSTRAINTS: &[u64] = &[2, 5, 29, 19];
const AUTHORITY: &[u64] = &[2, 5, 29, 35];
const EXTENDED_USAGE: &[u64] = &[2, 5, 29, 37];
/// A name without anything in it, as DER.
const NOBODY: &[u8] = &[0x30, 0];
/// Years before this one are written with two digits.
const CENTURY: i32 = 2050;
const UTC_TIME: u64 = 23;
const GENERALIZED_TIME: u64 = 24;
/// How many characters of PEM stand in a line.
const LINE: usize = 64;

/// What a certificate may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Usage {
    /// To sign what is said, as in every handshake of today.
    DigitalSignature,
    /// To have keys encrypted for it.
    KeyEncipherment,
    /// By a server.
    ServerAuth,
    /// By a client.
    ClientAuth,
}

/// A name or address beside the subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Name {
    Dns(String),
    Email(String),
    Uri(String),
    /// Four or sixteen bytes.
    Ip(Vec<u8>),
}

impl Name {
    /// An address, else a name.
    pub(super) fn of(text: &str) -> Self {
        match text.parse() {
            Ok(std::net::IpAddr::V4(ip)) => Self::Ip(ip.octets().to_vec()),
            Ok(std::net::IpAddr::V6(ip)) => Self::Ip(ip.octets().to_vec()),
            Err(_) => Self::Dns(text.to_owned()),
        }
    }

    fn read(name: &GeneralName<'_>) -> Option<Self> {
        match name {
            GeneralName::DNSName(name) => Some(Self::Dns((*name).to_owned())),
            GeneralName::RFC822Name(name) => Some(Self::Email((*name).to_owned())),
            GeneralName::URI(name) => Some(Self::Uri((*name).to_owned())),
            GeneralName::IPAddress(bytes) => Some(Self::Ip((*bytes).to_owned())),
            _ => None,
        }
    }

    fn write(&self, writer: DERWriter<'_>) {
        let (number, text) = match self {
            Self::Email(text) => (1, text),
            Self::Dns(text) => (2, text),
            Self::Uri(text) => (6, text),
            Self::Ip(bytes) => {
                return writer.write_tagged_implicit(Tag::context(7), |w| w.write_bytes(bytes));
            }
        };
        writer.write_tagged_implicit(Tag::context(number), |w| w.write_bytes(text.as_bytes()));
    }
}

/// A certificate that is to be signed.
pub(super) struct Leaf {
    /// As DER.
    pub(super) subject: Vec<u8>,
    pub(super) names: Vec<Name>,
    /// As DER, with its algorithm.
    pub(super) public_key: Vec<u8>,
    pub(super) usages: Vec<Usage>,
    /// In seconds since 1970.
    pub(super) life: std::ops::Range<i64>,
}

/// Who signs: as certificates name it.
pub(super) struct Authority<'a> {
    pub(super) key: &'a KeyPair,
    /// Its name, as DER.
    pub(super) name: &'a [u8],
    /// Which of its keys.
    pub(super) key_id: Option<&'a [u8]>,
}

/// What a request asks for.
pub(super) struct Asked {
    pub(super) subject: Vec<u8>,
    pub(super) names: Vec<Name>,
    pub(super) public_key: Vec<u8>,
}

/// Reads a PKCS#10 request; whoever made it has the key.
pub(super) fn read_request(pem: &str) -> Result<Asked, Error> {
    let bad = |why: &dyn std::fmt::Display| Error::certificate("the certificate request", why);
    let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).map_err(|e| bad(&e))?;
    let (_, request) = X509CertificationRequest::from_der(&block.contents).map_err(|e| bad(&e))?;
    request.verify_signature().map_err(|e| bad(&e))?;
    let mut names = Vec::new();
    for extension in request.requested_extensions().into_iter().flatten() {
        if let ParsedExtension::SubjectAlternativeName(wanted) = extension {
            names.extend(wanted.general_names.iter().filter_map(Name::read));
        }
    }
    let info = &request.certification_request_info;
    Ok(Asked { subject: info.subject.as_raw().to_vec(), names, public_key: info.subject_pki.raw.to_vec() })
}

/// The PEM text of a request by the holder of a key.
pub(super) fn request(identity: &Identity, key: &KeyPair) -> Result<String, Error> {
    let body = yasna::construct_der(|writer| {
        writer.write_sequence(|writer| {
            writer.next().write_u8(0);
            writer.next().write_der(&subject(identity));
            writer.next().write_der(&key.subject_public_key_info());
            // No attributes.
            writer.next().write_tagged_implicit(Tag::context(0), |w| w.write_set(|_| ()));
        });
    });
    Ok(pem("CERTIFICATE REQUEST", &signed(key, &body)?))
}

/// The name of somebody, as DER: groups first.
pub(super) fn subject(identity: &Identity) -> Vec<u8> {
    let mut parts: Vec<_> = identity.groups.iter().map(|group| (ORGANIZATION, group)).collect();
    parts.push((COMMON_NAME, &identity.user));
    yasna::construct_der(|writer| {
        writer.write_sequence(|writer| {
            for (kind, value) in parts {
                writer.next().write_set(|writer| {
                    writer.next().write_sequence(|writer| {
                        writer.next().write_oid(&oid(kind));
                        writer.next().write_utf8_string(value);
                    });
                });
            }
        });
    })
}

impl Leaf {
    /// The PEM text of the certificate.
    pub(super) fn sign(&self, authority: &Authority<'_>) -> Result<String, Error> {
        // Twenty bytes are allowed; sixteen, of which the first is neither zero nor negative, are what others use, too.
        let mut serial = random_bytes()?;
        serial[0] = serial[0] & 0x7f | 0x40;
        let (from, to) = (time(self.life.start)?, time(self.life.end)?);
        let algorithm = algorithm(authority.key)?;
        let body = yasna::construct_der(|writer| {
            writer.write_sequence(|writer| {
                writer.next().write_tagged(Tag::context(0), |w| w.write_u8(2));
                writer.next().write_bigint_bytes(&serial, true);
                writer.next().write_der(&algorithm);
                writer.next().write_der(authority.name);
                writer.next().write_sequence(|writer| {
                    for (tag, text) in [&from, &to] {
                        let tag = Tag { tag_class: yasna::TagClass::Universal, tag_number: *tag };
                        writer.next().write_tagged_implicit(tag, |w| w.write_bytes(text.as_bytes()));
                    }
                });
                writer.next().write_der(&self.subject);
                writer.next().write_der(&self.public_key);
                writer.next().write_tagged(Tag::context(3), |writer| {
                    writer.write_sequence(|writer| self.extensions(writer, authority.key_id));
                });
            });
        });
        Ok(pem("CERTIFICATE", &signed(authority.key, &body)?))
    }

    fn extensions(&self, writer: &mut DERWriterSeq<'_>, key_id: Option<&[u8]>) {
        let (mut bits, mut extended): (u8, Vec<&[u64]>) = (0, Vec::new());
        for usage in &self.usages {
            match usage {
                Usage::DigitalSignature => bits |= 0b1000_0000,
                Usage::KeyEncipherment => bits |= 0b0010_0000,
                Usage::ServerAuth => extended.push(&[1, 3, 6, 1, 5, 5, 7, 3, 1]),
                Usage::ClientAuth => extended.push(&[1, 3, 6, 1, 5, 5, 7, 3, 2]),
            }
        }
        if bits != 0 {
            let used = 8 - bits.trailing_zeros() as usize;
            extension(writer, KEY_USAGE, true, |w| w.write_bitvec_bytes(&[bits], used));
        }
        if !extended.is_empty() {
            extension(writer, EXTENDED_USAGE, false, |w| {
                w.write_sequence(|w| extended.iter().for_each(|usage| w.next().write_oid(&oid(usage))));
            });
        }
        // No authority itself: what is not said is false.
        extension(writer, BASIC_CONSTRAINTS, true, |w| w.write_sequence(|_| ()));
        if let Some(key_id) = key_id {
            extension(writer, AUTHORITY, false, |w| {
                w.write_sequence(|w| {
                    w.next().write_tagged_implicit(Tag::context(0), |w| w.write_bytes(key_id));
                });
            });
        }
        if !self.names.is_empty() {
            let critical = self.subject == NOBODY;
            extension(writer, ALTERNATIVE_NAMES, critical, |w| {
                w.write_sequence(|w| self.names.iter().for_each(|name| name.write(w.next())));
            });
        }
    }
}

fn extension(writer: &mut DERWriterSeq<'_>, kind: &[u64], critical: bool, value: impl FnOnce(DERWriter<'_>)) {
    writer.next().write_sequence(|writer| {
        writer.next().write_oid(&oid(kind));
        if critical {
            writer.next().write_bool(true);
        }
        writer.next().write_bytes(&yasna::construct_der(value));
    });
}

/// What was signed, how, and the signature.
fn signed(key: &KeyPair, body: &[u8]) -> Result<Vec<u8>, Error> {
    let algorithm = algorithm(key)?;
    let signature = key.sign(body).map_err(|e| Error::certificate("a signature", e))?;
    Ok(yasna::construct_der(|writer| {
        writer.write_sequence(|writer| {
            writer.next().write_der(body);
            writer.next().write_der(&algorithm);
            writer.next().write_bitvec_bytes(&signature, signature.len() * 8);
        });
    }))
}

/// How a key signs, as DER.
fn algorithm(key: &KeyPair) -> Result<Vec<u8>, Error> {
    let known: [(&rcgen::SignatureAlgorithm, _); 6] = [
        (&rcgen::PKCS_ECDSA_P256_SHA256, alg_id::ECDSA_SHA256),
        (&rcgen::PKCS_ECDSA_P384_SHA384, alg_id::ECDSA_SHA384),
        (&rcgen::PKCS_ED25519, alg_id::ED25519),
        (&rcgen::PKCS_RSA_SHA256, alg_id::RSA_PKCS1_SHA256),
        (&rcgen::PKCS_RSA_SHA384, alg_id::RSA_PKCS1_SHA384),
        (&rcgen::PKCS_RSA_SHA512, alg_id::RSA_PKCS1_SHA512),
    ];
    let found = known.iter().find(|(algorithm, _)| *algorithm == key.algorithm());
    let (_, contents) = found.ok_or_else(|| {
        Error::certificate("the CA's key", "keys of this kind are not supported: give ECDSA, Ed25519 or RSA")
    })?;
    // All of them are shorter than 128 bytes.
    let length = u8::try_from(contents.as_ref().len()).unwrap_or(0);
    Ok([&[0x30, length], contents.as_ref()].concat())
}

fn random_bytes() -> Result<[u8; 16], Error> {
    use ring::rand::SecureRandom as _;
    let mut bytes = [0; 16];
    let filled = ring::rand::SystemRandom::new().fill(&mut bytes);
    filled.map(|()| bytes).map_err(|e| Error::certificate("a serial number", e))
}

/// The tag and the text of a time.
fn time(seconds: i64) -> Result<(u64, String), Error> {
    let time =
        ASN1Time::from_timestamp(seconds).map_err(|e| Error::certificate("a certificate's life", e))?;
    let time = time.to_datetime();
    let (year, rest) =
        (time.year(), (u8::from(time.month()), time.day(), time.hour(), time.minute(), time.second()));
    let (month, day, hour, minute, second) = rest;
    let rest = format!("{month:02}{day:02}{hour:02}{minute:02}{second:02}Z");
    Ok(if year < CENTURY {
        (UTC_TIME, format!("{:02}{rest}", year.rem_euclid(100)))
    } else {
        (GENERALIZED_TIME, format!("{year:04}{rest}"))
    })
}

fn oid(numbers: &[u64]) -> ObjectIdentifier {
    ObjectIdentifier::from_slice(numbers)
}

fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut lines = vec![format!("-----BEGIN {label}-----")];
    // Base64 is ASCII: every chunk is text.
    lines.extend(text.as_bytes().chunks(LINE).map(|line| String::from_utf8_lossy(line).into_owned()));
    lines.push(format!("-----END {label}-----\n"));
    lines.join("\n")
}
