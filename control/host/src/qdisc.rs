//! Queues in front of the host port.

use futures::StreamExt;
use netlink_packet_core::{
    DefaultNla, NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage};

use crate::{Error, Link, Netlink};

const TCA_OPTIONS: u16 = 2;
/// The handle of the root queue, whose classes 1, 2, ... are the device's queues.
const ROOT: u16 = 0x7870;

impl Netlink {
    /// Gives each transmit queue of a link a plain first-in-first-out of `limit` packets.
    pub(crate) async fn queue_packets(&self, link: &Link, limit: u32) -> Result<(), Error> {
        if link.tx_queues < 2 {
            return self.put_qdisc(link, TcHandle::ROOT, pfifo(limit)).await;
        }
        // One queue for the whole device would stop all of it when one of its rings is full.
        let root = TcAttribute::Kind("mq".to_owned());
        self.put_qdisc(link, TcHandle::ROOT, vec![root]).await?;
        for queue in 1..=link.tx_queues {
            let class = TcHandle {
                major: ROOT,
                minor: u16::try_from(queue).unwrap_or(u16::MAX),
            };
            self.put_qdisc(link, class, pfifo(limit)).await?;
        }
        Ok(())
    }

    async fn put_qdisc(
        &self,
        link: &Link,
        parent: TcHandle,
        attributes: Vec<TcAttribute>,
    ) -> Result<(), Error> {
        let mut message = TcMessage::default();
        message.header.index = i32::try_from(link.ifindex).unwrap_or_default();
        message.header.parent = parent;
        if parent == TcHandle::ROOT {
            message.header.handle = TcHandle {
                major: ROOT,
                minor: 0,
            };
        }
        message.attributes = attributes;
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewQueueDiscipline(message));
        request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
        let failed = |error| Error::route(format!("put a queue on {}", link.name), error);
        let mut replies = self.route.clone().request(request).map_err(failed)?;
        while let Some(reply) = replies.next().await {
            if let NetlinkPayload::Error(error) = reply.payload {
                return Err(failed(rtnetlink::Error::NetlinkError(error)));
            }
        }
        Ok(())
    }
}

/// The queue's only option is a bare number, not an attribute of its own.
fn pfifo(limit: u32) -> Vec<TcAttribute> {
    vec![
        TcAttribute::Kind("pfifo".to_owned()),
        TcAttribute::Other(DefaultNla::new(TCA_OPTIONS, limit.to_ne_bytes().to_vec())),
    ]
}
