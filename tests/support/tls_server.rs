//! A server that speaks TLS, with one of the certificates of `certificates/make`. Also used by unit tests,
//! so it names nothing of its neighbours.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    RootCertStore, ServerConfig, ServerConnection, StreamOwned, SupportedProtocolVersion,
};
use socket2::SockRef;

const KEY: &str = include_str!("certificates/key.pem");

/// Its issuer is itself, and it calls itself an authority's.
pub const AUTHORITY: &str = include_str!("certificates/authority.pem");
/// Its issuer is itself, and it calls itself a server's.
pub const SELF_SIGNED: &str = include_str!("certificates/self_signed.pem");
/// Issued by [`AUTHORITY`].
pub const ISSUED: &str = include_str!("certificates/issued.pem");
/// The same for `a.example`, `*.b.example` and `10.0.0.1`.
pub const OTHER_NAMES: &str = include_str!("certificates/other_names.pem");
/// Until 2024-02-29.
pub const EXPIRED: &str = include_str!("certificates/expired.pem");
/// From 2119-05-04 on.
pub const NOT_YET: &str = include_str!("certificates/not_yet.pem");

/// As [`AUTHORITY`], until 2024-02-29.
pub const EXPIRED_AUTHORITY: &str = include_str!("certificates/expired_authority.pem");

/// Where a file of `certificates` is.
pub fn path_of(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/certificates").join(file)
}

/// A certificate as rustls takes it.
pub fn certificate(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate")
}

/// A server's configuration with a certificate.
pub fn server_config(pem: &str) -> Arc<ServerConfig> {
    let key = PrivateKeyDer::from_pem_slice(KEY.as_bytes()).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.expect("ring has them").with_no_client_auth();
    Arc::new(builder.with_single_cert(vec![certificate(pem)], key).expect("they belong together"))
}

/// The same for a server that asks clients for a certificate of [`AUTHORITY`].
pub fn asking_config(pem: &str, version: &'static SupportedProtocolVersion) -> Arc<ServerConfig> {
    let key = PrivateKeyDer::from_pem_slice(KEY.as_bytes()).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(certificate(AUTHORITY)).expect("a certificate");
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
    let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(&[version]);
    let builder = builder.expect("ring has it");
    let builder = builder.with_client_cert_verifier(verifier.expect("an authority"));
    Arc::new(builder.with_single_cert(vec![certificate(pem)], key).expect("they belong together"))
}

/// A connection of a client with TLS.
pub type TlsStream = BufReader<StreamOwned<ServerConnection, TcpStream>>;

pub struct TlsServer {
    listener: Arc<TcpListener>,
}

impl TlsServer {
    /// Serves each request without a body with `serve`. The handshake may fail.
    pub fn start(pem: &str, serve: impl Fn(&mut TlsStream) + Send + Sync + 'static) -> Self {
        Self::start_with(server_config(pem), move |stream, _| serve(stream))
    }

    /// The same with a configuration; `serve` gets the head, too.
    fn start_with(
        config: Arc<ServerConfig>,
        serve: impl Fn(&mut TlsStream, &str) + Send + Sync + 'static,
    ) -> Self {
        let listener = Arc::new(TcpListener::bind("127.0.0.1:0").expect("a free port"));
        let (accepting, serve) = (listener.clone(), Arc::new(serve));
        thread::spawn(move || {
            for stream in accepting.incoming().map_while(Result::ok) {
                let (config, serve) = (config.clone(), serve.clone());
                thread::spawn(move || {
                    let connection = ServerConnection::new(config).expect("a configuration");
                    let mut stream = BufReader::new(StreamOwned::new(connection, stream));
                    while let Some(head) = read_head(&mut stream) {
                        serve(&mut stream, &head);
                    }
                    // What rustls had to say of the handshake was written; unread bytes must not reset it.
                    let socket = &mut stream.get_mut().sock;
                    let _ = socket.shutdown(Shutdown::Write);
                    let _ = socket.read_to_end(&mut Vec::new());
                });
            }
        });
        Self { listener }
    }

    /// Answers each request with `ok`.
    pub fn answering(pem: &str) -> Self {
        Self::start(pem, |stream| {
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
            let _ = stream.get_mut().write_all(answer);
            let _ = stream.get_mut().flush();
        })
    }

    /// Passes each request on to a server without TLS.
    pub fn in_front_of(target: SocketAddr, config: Arc<ServerConfig>) -> Self {
        Self::start_with(config, move |stream, head| {
            let _ = relay(stream, head, target);
        })
    }

    pub fn addr(&self) -> SocketAddr {
        self.listener.local_addr().expect("bound")
    }
}

impl Drop for TlsServer {
    fn drop(&mut self) {
        // Ends the accept, and with it the thread.
        let _ = SockRef::from(&*self.listener).shutdown(Shutdown::Both);
    }
}

/// Reads to the blank line; `None` if the connection ends.
fn read_head(stream: &mut TlsStream) -> Option<String> {
    let mut head = String::new();
    while stream.read_line(&mut head).is_ok_and(|length| length > 0) {
        if head.ends_with("\r\n\r\n") {
            return Some(head);
        }
    }
    None
}

/// Sends a request to a server without TLS, and its response back.
fn relay(stream: &mut TlsStream, head: &str, target: SocketAddr) -> io::Result<()> {
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-length").then(|| value.parse().ok())?
    });
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body)?;
    let mut server = TcpStream::connect(target)?;
    server.write_all(&[head.as_bytes(), &body].concat())?;
    // There is no further request, so the response ends with the connection.
    server.shutdown(Shutdown::Write)?;
    let mut piece = [0; 4096];
    loop {
        let length = server.read(&mut piece)?;
        if length == 0 {
            return Ok(());
        }
        stream.get_mut().write_all(&piece[..length])?;
        stream.get_mut().flush()?;
    }
}
