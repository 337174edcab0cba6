//! Mutual TLS: each side shows a certificate, and takes one that the other's authority has signed. 1.3 alone, for both sides are
//! rtc.
//!
//! The source checks that the destination's certificate is for the name that it connects to. The destination checks no name: who
//! has a certificate of its authority may send it containers, which is to run anything as root there. So the authority is one
//! for this purpose.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::link::Stream;

/// For a connection and its handshake: who says nothing does not keep a place.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Where the files are, if nothing else is said.
const DIRECTORY: &str = "/etc/rtc/tls";

/// PEM files of one side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsFiles {
    /// Its certificate, and those between it and the authority's.
    pub cert: PathBuf,
    pub key: PathBuf,
    /// The authority whose certificates the other side may show.
    pub ca: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{what} in {}", path.display())]
    Read {
        what: &'static str,
        path: PathBuf,
        #[source]
        err: rustls::pki_types::pem::Error,
    },
    #[error("no certificate in {}", .0.display())]
    Empty(PathBuf),
    #[error("the authority's certificate in {}", path.display())]
    Authority {
        path: PathBuf,
        #[source]
        err: rustls::Error,
    },
    #[error("the verification of the other side's certificates")]
    Verifier(#[source] rustls::server::VerifierBuilderError),
    #[error("the certificate in {} and its key", path.display())]
    Own {
        path: PathBuf,
        #[source]
        err: rustls::Error,
    },
    #[error("{0:?} is no name that a certificate could have")]
    Name(String),
    #[error("not within {HANDSHAKE:?}")]
    Late,
    #[error("the handshake")]
    Handshake(#[source] io::Error),
}

impl Default for TlsFiles {
    fn default() -> Self {
        let file = |name: &str| Path::new(DIRECTORY).join(name);
        Self { cert: file("cert.pem"), key: file("key.pem"), ca: file("ca.pem") }
    }
}

impl TlsFiles {
    /// Connects to a destination, and is sure that it is the one that was meant.
    pub(crate) async fn connect(&self, host: &str, port: u16) -> Result<Box<dyn Stream>, TlsError> {
        let connector = TlsConnector::from(Arc::new(self.client()?));
        let name = ServerName::try_from(host.to_owned()).map_err(|_| TlsError::Name(host.to_owned()))?;
        let connected = async {
            let stream = TcpStream::connect((host, port)).await?;
            stream.set_nodelay(true)?;
            connector.connect(name, stream).await
        };
        let stream = timeout(HANDSHAKE, connected).await.map_err(|_| TlsError::Late)?;
        Ok(Box::new(stream.map_err(TlsError::Handshake)?))
    }

    pub(crate) fn acceptor(&self) -> Result<Acceptor, TlsError> {
        Ok(Acceptor(TlsAcceptor::from(Arc::new(self.server()?))))
    }

    fn client(&self) -> Result<ClientConfig, TlsError> {
        let (certs, key) = self.own()?;
        let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13]);
        let builder = builder.map_err(|err| TlsError::Own { path: self.cert.clone(), err })?;
        let builder = builder.with_root_certificates(self.authority()?);
        builder.with_client_auth_cert(certs, key).map_err(|err| TlsError::Own { path: self.cert.clone(), err })
    }

    fn server(&self) -> Result<ServerConfig, TlsError> {
        let (certs, key) = self.own()?;
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(self.authority()?), provider());
        let verifier = verifier.build().map_err(TlsError::Verifier)?;
        let own = |err| TlsError::Own { path: self.cert.clone(), err };
        let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13]).map_err(own)?;
        builder.with_client_cert_verifier(verifier).with_single_cert(certs, key).map_err(own)
    }

    fn own(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
        let key = PrivateKeyDer::from_pem_file(&self.key);
        let key = key.map_err(|err| TlsError::Read { what: "the private key", path: self.key.clone(), err })?;
        Ok((certificates(&self.cert)?, key))
    }

    fn authority(&self) -> Result<RootCertStore, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&self.ca)? {
            roots.add(certificate).map_err(|err| TlsError::Authority { path: self.ca.clone(), err })?;
        }
        Ok(roots)
    }
}

/// The side that is connected to.
#[derive(Clone)]
pub(crate) struct Acceptor(TlsAcceptor);

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acceptor").finish_non_exhaustive()
    }
}

impl Acceptor {
    pub(crate) async fn accept(&self, stream: TcpStream) -> Result<Box<dyn Stream>, TlsError> {
        stream.set_nodelay(true).map_err(TlsError::Handshake)?;
        let stream = timeout(HANDSHAKE, self.0.accept(stream)).await.map_err(|_| TlsError::Late)?;
        Ok(Box::new(stream.map_err(TlsError::Handshake)?))
    }
}

/// ring: it has been audited, is small, and needs neither cmake nor a library beside the binary.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |err| TlsError::Read { what: "a certificate", path: path.to_owned(), err };
    let all = CertificateDer::pem_file_iter(path).map_err(failed)?;
    let all = all.collect::<Result<Vec<_>, _>>().map_err(failed)?;
    if all.is_empty() { Err(TlsError::Empty(path.to_owned())) } else { Ok(all) }
}

/// The words for what the other side has ended the connection with, if it has.
pub(crate) fn refusal(err: &io::Error) -> Option<rustls::AlertDescription> {
    match err.get_ref()?.downcast_ref::<rustls::Error>()? {
        rustls::Error::AlertReceived(alert) => Some(*alert),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// An authority with a directory for what it issues.
    struct Authority {
        issuer: Issuer<'static, KeyPair>,
        ca: PathBuf,
        directory: tempfile::TempDir,
    }

    impl Authority {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            // Authorities are told apart by their names.
            params.distinguished_name.push(DnType::CommonName, directory.path().to_string_lossy().into_owned());
            let ca = directory.path().join("ca.pem");
            std::fs::write(&ca, params.self_signed(&key).unwrap().pem()).unwrap();
            Self { issuer: Issuer::new(params, key), ca, directory }
        }

        fn issue(&self, name: &str, days: i64) -> TlsFiles {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = params.not_before + std::time::Duration::from_secs(86400).saturating_mul(days as u32);
            let file = |kind: &str| self.directory.path().join(format!("{name}-{days}.{kind}"));
            let files = TlsFiles { cert: file("pem"), key: file("key"), ca: self.ca.clone() };
            std::fs::write(&files.cert, params.signed_by(&key, &self.issuer).unwrap().pem()).unwrap();
            std::fs::write(&files.key, key.serialize_pem()).unwrap();
            files
        }
    }

    const LONG: i64 = 365 * 60;

    /// What each side has to say of a connection.
    async fn meet(source: &TlsFiles, destination: &TlsFiles) -> (Result<(), String>, Result<(), String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let acceptor = destination.acceptor().unwrap();
        let accepting = tokio::spawn(async move {
            let mut stream = acceptor.accept(listener.accept().await.unwrap().0).await.map_err(chain)?;
            stream.write_all(b"hello").await.map_err(|err| err.to_string())
        });
        let connected = async {
            let mut stream = source.connect("localhost", port).await.map_err(chain)?;
            let heard = stream.read_exact(&mut [0; 5]).await;
            heard.map(drop).map_err(|err| refusal(&err).map_or(err.to_string(), |alert| format!("{alert:?}")))
        };
        (connected.await, accepting.await.unwrap())
    }

    fn chain(err: TlsError) -> String {
        use std::error::Error;
        format!("{err}: {}", err.source().map(ToString::to_string).unwrap_or_default())
    }

    #[tokio::test]
    async fn both_sides_are_known_to_one_another() {
        let authority = Authority::new();
        let (source, destination) = (authority.issue("source", LONG), authority.issue("localhost", LONG));
        assert_eq!(meet(&source, &destination).await, (Ok(()), Ok(())));
    }

    #[tokio::test]
    async fn whoever_is_not_the_one_that_was_meant_is_refused() {
        let (authority, other) = (Authority::new(), Authority::new());
        let source = authority.issue("source", LONG);
        let refused = async |destination: TlsFiles| meet(&source, &destination).await.0.unwrap_err();
        let name = refused(authority.issue("elsewhere", LONG)).await;
        assert!(name.contains("not valid for name"), "{name}");
        let expired = refused(authority.issue("localhost", 1)).await;
        assert!(expired.contains("expired"), "{expired}");
        let stranger = refused(TlsFiles { ca: authority.ca.clone(), ..other.issue("localhost", LONG) }).await;
        assert!(stranger.contains("UnknownIssuer"), "{stranger}");
    }

    #[tokio::test]
    async fn a_source_without_a_certificate_of_the_authority_is_refused() {
        let (authority, other) = (Authority::new(), Authority::new());
        let destination = authority.issue("localhost", LONG);
        let stranger = TlsFiles { ca: authority.ca.clone(), ..other.issue("source", LONG) };
        let (source_says, destination_says) = meet(&stranger, &destination).await;
        assert!(source_says.unwrap_err().contains("UnknownCA"));
        assert!(destination_says.unwrap_err().contains("UnknownIssuer"));

        let config = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&TLS13]).unwrap();
        let config = config.with_root_certificates(destination.authority().unwrap()).with_no_client_auth();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let acceptor = destination.acceptor().unwrap();
        let accepting =
            tokio::spawn(async move { acceptor.accept(listener.accept().await.unwrap().0).await.map(drop) });
        let stream = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let connected = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
        let refused = chain(accepting.await.unwrap().unwrap_err());
        assert!(refused.contains("peer sent no certificates"), "{refused}");
        drop(connected);
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_is_not_waited_for() {
        let authority = Authority::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _silent = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let acceptor = authority.issue("localhost", LONG).acceptor().unwrap();
        assert!(matches!(acceptor.accept(stream).await.map(drop), Err(TlsError::Late)));
    }

    #[test]
    fn files_that_are_none_are_named() {
        let authority = Authority::new();
        let good = authority.issue("localhost", LONG);
        let told = |files: TlsFiles| chain(files.acceptor().unwrap_err());
        assert!(told(TlsFiles { key: "/nowhere/key.pem".into(), ..good.clone() }).contains("/nowhere/key.pem"));
        assert!(told(TlsFiles { cert: good.key.clone(), ..good.clone() }).contains("no certificate in"));
        let another = authority.issue("another", LONG);
        assert!(told(TlsFiles { key: another.key, ..good }).contains("localhost"));
    }
}
