//! Zones and services, and who may reach whom.

use serde::{Deserialize, Serialize};

/// The zones and services of the configuration, and who may reach whom with what.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZoneMatrix {
    /// The zones, in the order of the configuration.
    pub zones: Vec<Zone>,
    /// The services, likewise.
    pub services: Vec<Service>,
    /// For each pair of zones what the one may ask of the other; a zone with itself, too.
    pub reach: Vec<ZoneReach>,
}

/// A zone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Zone {
    /// Its name.
    pub name: String,
    /// The zone that it belongs to.
    pub parent: Option<String>,
    /// Its networks.
    pub networks: Vec<String>,
    /// The interfaces whose other addresses are its own.
    pub interfaces: Vec<String>,
    /// What may be asked of it, by its own list or its parents'; none: everything.
    pub inbound: Option<Vec<String>>,
    /// What it may ask, likewise.
    pub outbound: Option<Vec<String>>,
}

/// A service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Where its proxy listens.
    pub proxy: String,
}

/// What one zone may ask of another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZoneReach {
    /// The clients' zone; none: addresses of no zone.
    pub from: Option<String>,
    /// The servers' zone; none: addresses of no zone.
    pub to: Option<String>,
    /// The services by name; `"*"`: all, and what belongs to no service. Empty: nothing.
    pub services: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Reply;

    #[test]
    fn its_line_is_as_documented() {
        let zone = Zone {
            name: "intra".into(),
            networks: vec!["192.168.1.0/24".into()],
            interfaces: vec!["eth1".into()],
            inbound: Some(Vec::new()),
            ..Zone::default()
        };
        let reach = ZoneReach {
            from: Some("intra".into()),
            to: None,
            services: vec!["*".into()],
        };
        let service = Service {
            name: "intra_http".into(),
            proxy: "10.0.0.1:50080".into(),
        };
        let reply = Reply::Zones(ZoneMatrix {
            zones: vec![zone],
            services: vec![service],
            reach: vec![reach],
        });
        let line = crate::line(&reply).unwrap();
        let text = concat!(
            r#"{"reply":"zones","zones":[{"name":"intra","parent":null,"#,
            r#""networks":["192.168.1.0/24"],"interfaces":["eth1"],"inbound":[],"outbound":null}],"#,
            r#""services":[{"name":"intra_http","proxy":"10.0.0.1:50080"}],"#,
            r#""reach":[{"from":"intra","to":null,"services":["*"]}]}"#,
            "\n"
        );
        assert_eq!(str::from_utf8(&line).unwrap(), text);
        assert_eq!(serde_json::from_slice::<Reply>(&line).unwrap(), reply);
    }
}
