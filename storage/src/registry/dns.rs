//! Names to addresses. A static binary has no NSS, so `/etc/resolv.conf` and `/etc/hosts` are read here; and again
//! when they change, for an agent may start before its network. There is no fallback to anybody's public servers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::LookupIpStrategy;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Device, inode, change time: who has the same has not changed.
type Stamp = [Option<(u64, u64, i64, i64)>; 2];
type BoxError = Box<dyn std::error::Error + Send + Sync>;

#[derive(Default)]
pub(super) struct Resolver {
    current: Mutex<Option<(Stamp, TokioResolver)>>,
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Resolver")
    }
}

fn stamp() -> Stamp {
    ["/etc/resolv.conf", "/etc/hosts"].map(|path| {
        let meta = std::fs::metadata(path).ok()?;
        Some((meta.dev(), meta.ino(), meta.ctime(), meta.ctime_nsec()))
    })
}

impl Resolver {
    fn get(&self) -> Result<TokioResolver, BoxError> {
        let now = stamp();
        let mut current = crate::content::lock(&self.current);
        if let Some((then, resolver)) = &*current
            && *then == now
        {
            return Ok(resolver.clone());
        }
        let mut builder =
            TokioResolver::builder_tokio().map_err(|error| format!("/etc/resolv.conf: {error}"))?;
        builder.options_mut().ip_strategy = LookupIpStrategy::Ipv6AndIpv4;
        let resolver = builder.build()?;
        *current = Some((now, resolver.clone()));
        Ok(resolver)
    }
}

/// What reqwest takes; one resolver serves both clients.
pub(super) struct Shared(pub(super) Arc<Resolver>);

impl Resolve for Shared {
    fn resolve(&self, name: Name) -> Resolving {
        let resolver = Arc::clone(&self.0);
        Box::pin(async move {
            let name = name.as_str();
            // RFC 6761, 6.3: no server is asked about localhost.
            let addresses: Vec<IpAddr> = if name == "localhost" || name.ends_with(".localhost") {
                vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
            } else {
                let failed = |error: BoxError| format!("cannot resolve {name}: {error}");
                let lookup = resolver.get().map_err(failed)?.lookup_ip(name).await;
                lookup.map_err(|error| failed(error.into()))?.iter().collect()
            };
            let addresses: Addrs = Box::new(addresses.into_iter().map(|address| SocketAddr::new(address, 0)));
            Ok(addresses)
        })
    }
}
