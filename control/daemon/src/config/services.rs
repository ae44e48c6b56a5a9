//! What proxies offer, by name.

use std::collections::BTreeMap;
use std::net::SocketAddrV4;

use super::Service;
use super::error::Fault;
use super::text::ServiceTable;

pub fn services(
    tables: BTreeMap<String, ServiceTable>,
) -> Result<BTreeMap<String, Service>, Fault> {
    let mut services: BTreeMap<String, Service> = BTreeMap::new();
    for (name, table) in tables {
        let (text, span) = (table.proxy.get_ref(), table.proxy.span());
        if name == "*" {
            let message = "a service cannot be named \"*\", which stands for all; choose a name";
            return Err(Fault::new(span, message));
        }
        let proxy: SocketAddrV4 = text.parse().map_err(|_| {
            let message =
                format!("proxy: {text:?} is not where a proxy listens, such as \"10.0.0.1:50080\"");
            Fault::new(span.clone(), message)
        })?;
        if proxy.port() == 0 || proxy.ip().is_unspecified() {
            let message = format!(
                "proxy: {text} names no single endpoint; write the address and port that rules redirect to"
            );
            return Err(Fault::new(span, message));
        }
        let other = services.iter().find(|(_, other)| other.proxy == proxy);
        if let Some((other, _)) = other {
            let message = format!(
                "services {other} and {name} have one proxy, {proxy}; a connection is known by the proxy that it goes to"
            );
            return Err(Fault::new(span, message));
        }
        services.insert(name, Service { proxy });
    }
    Ok(services)
}
