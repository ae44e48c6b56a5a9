//! The lab's administrator: a session is open, is cut and comes back.

use std::time::Duration;

use lab::topology::FW_INTRA;
use lab::{Lab, Plan, SshServer};

#[test]
fn a_session_is_cut_and_comes_back() {
    let plan = Plan {
        idle: true,
        ..Plan::default()
    };
    let lab = Lab::build(&plan).unwrap();
    let ssh = SshServer::start(&lab.fw, lab.dir()).unwrap();
    assert!(ssh.opens(&lab.client, None, FW_INTRA).unwrap());
    let mut session = ssh.session(&lab.client, FW_INTRA).unwrap();
    assert!(session.answers(Duration::from_secs(5)).unwrap());

    lab.fw.ip("link set eth1 down").unwrap();
    assert!(!session.answers(Duration::from_secs(1)).unwrap());
    assert!(!ssh.opens(&lab.client, None, FW_INTRA).unwrap());
    lab.fw.ip("link set eth1 up").unwrap();
    assert!(session.catches_up(Duration::from_secs(20)).unwrap());
}
