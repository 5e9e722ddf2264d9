//! TLS to programs in containers, whose certificates nobody checks: who may open the socket of their namespace is at the right place.

use std::sync::{Arc, OnceLock};

use rustls::{
    ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::HandlerError;

/// Connects without a check, as kubelet's probes do. What it needs is made once, for whoever asks first.
#[derive(Debug, Clone, Default)]
pub(super) struct Unchecked {
    http1: Arc<OnceLock<Arc<ClientConfig>>>,
    http2: Arc<OnceLock<Arc<ClientConfig>>>,
}

impl Unchecked {
    /// Speaks TLS on a connection. A name goes into the handshake, an address does not.
    pub(super) async fn over(
        &self,
        stream: TcpStream,
        host: &str,
        http2: bool,
    ) -> Result<TlsStream<TcpStream>, HandlerError> {
        let config = if http2 {
            self.http2.get_or_init(|| config(&[b"h2"]))
        } else {
            self.http1.get_or_init(|| config(&[]))
        };
        let host = host.trim_matches(['[', ']']).to_owned();
        let name = ServerName::try_from(host)
            .map_err(|error| HandlerError::Request(format!("the host is no name of a server: {error}")))?;
        TlsConnector::from(Arc::clone(config)).connect(name, stream).await.map_err(HandlerError::Tls)
    }
}

fn config(protocols: &[&[u8]]) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(NoCheck(Arc::clone(&provider)));
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has the usual versions")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Arc::new(config)
}

/// Takes every certificate.
#[derive(Debug)]
struct NoCheck(Arc<CryptoProvider>);

impl ServerCertVerifier for NoCheck {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
