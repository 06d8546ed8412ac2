//! The 48 cases of Kubernetes' end-to-end tests of `NetworkPolicy`.
//!
//! Each is told in its own words and documents here, over all nine pods and all six
//! ports where the original looks at two to five pods and at most two ports. The
//! tables are stated as they are there: everything is open, but.

mod changing;
mod egress;
mod peers;
mod ports;

use super::{Case, Setting, Suite};

/// All of them.
pub fn cases() -> Vec<Case> {
    let mut cases = peers::cases();
    cases.extend(ports::cases());
    cases.extend(egress::cases());
    cases.extend(changing::cases());
    cases
}

fn case(name: &str) -> Case {
    Case::new(Suite::Netpol, Setting::Trio, name)
}
