//! The CNI configuration that containerd rendered.

use crate::agent::root::Root;
use crate::digest::Digest;
use crate::facts::CniFacts;
use crate::layout;
use ipnet::IpNet;
use serde_json::Value;

pub(super) fn observe(root: &Root) -> Option<CniFacts> {
    let text = fs_err::read_to_string(root.path(layout::CNI_RENDERED)).ok()?;
    Some(CniFacts {
        digest: Digest::of(&text),
        subnet: parse_subnet(&text),
    })
}

/// The first subnet of the first plugin that allots addresses: host-local's
/// `ranges`, or its older `subnet`.
fn parse_subnet(text: &str) -> Option<IpNet> {
    let configuration: Value = serde_json::from_str(text).ok()?;
    let plugins = configuration.get("plugins")?.as_array()?;
    plugins.iter().find_map(|plugin| {
        let allotment = plugin.get("ipam")?;
        let subnet = allotment
            .pointer("/ranges/0/0/subnet")
            .or_else(|| allotment.get("subnet"))?;
        subnet.as_str()?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_subnet_of_either_form() {
        let cases = [
            (
                r#"{"plugins":[{"type":"bridge","ipam":{"type":"host-local","ranges":[[{"subnet":"10.244.1.0/24"}]]}}]}"#,
                Some("10.244.1.0/24"),
            ),
            (
                r#"{"plugins":[{"type":"tuning"},{"ipam":{"subnet":"10.244.2.0/24"}}]}"#,
                Some("10.244.2.0/24"),
            ),
            (r#"{"plugins":[{"ipam":{"subnet":""}}]}"#, None),
            (r#"{"plugins":"#, None),
            ("", None),
        ];
        for (text, subnet) in cases {
            assert_eq!(
                parse_subnet(text),
                subnet.map(|net| net.parse().unwrap()),
                "{text}"
            );
        }
    }
}
