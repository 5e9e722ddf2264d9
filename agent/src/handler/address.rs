//! Where a handler connects to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use hickory_resolver::TokioResolver;

use super::HandlerError;

/// The most addresses of one name that are tried.
const MAX_ADDRESSES: usize = 4;

/// The addresses of a host, in the order in which they are tried. No host is the container's loopback, by IPv4 and then by IPv6.
/// A name is looked up as this node does, since a container may have no resolver.
pub(super) async fn find(host: Option<&str>, port: u16) -> Result<Vec<SocketAddr>, HandlerError> {
    let host = host.unwrap_or("localhost");
    let with_port = |ip: IpAddr| SocketAddr::new(ip, port);
    if host.eq_ignore_ascii_case("localhost") {
        return Ok([Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()].map(with_port).to_vec());
    }
    if let Ok(ip) = host.trim_matches(['[', ']']).parse() {
        return Ok(vec![with_port(ip)]);
    }
    let failed = |why: String| HandlerError::NoAddress { host: host.to_owned(), why };
    let builder =
        TokioResolver::builder_tokio().map_err(|error| failed(format!("/etc/resolv.conf: {error}")))?;
    let resolver = builder.build().map_err(|error| failed(error.to_string()))?;
    let found = resolver.lookup_ip(host).await.map_err(|error| failed(error.to_string()))?;
    Ok(found.iter().take(MAX_ADDRESSES).map(with_port).collect())
}
