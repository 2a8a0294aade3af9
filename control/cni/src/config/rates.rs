//! How much a guest may send and get: `rate` of the configuration, and `runtimeConfig.bandwidth` of the runtime (CNI conventions,
//! capability `bandwidth`), in the words of culvertd's port. Whether a rate is possible culvertd says.

use culvert_api::v1;
use serde::Deserialize;
use serde_json::Value;

use crate::error::{Code, Error};

use super::Config;

/// The key `rate`, from culvertd's side: rx is what the guest sends.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct Rates {
    /// Bits a second, such as `100mbit`.
    pub rx: Option<String>,
    /// Bytes at once.
    pub rx_burst: Option<u64>,
    /// Frames a second.
    pub rx_frames: Option<u32>,
    /// Frames at once.
    pub rx_frame_burst: Option<u32>,
    /// What the guest gets; otherwise as `rx`.
    pub tx: Option<String>,
    /// As `rx_burst`.
    pub tx_burst: Option<u64>,
    /// As `rx_frames`.
    pub tx_frames: Option<u32>,
    /// As `rx_frame_burst`.
    pub tx_frame_burst: Option<u32>,
}

/// `runtimeConfig.bandwidth`, in bits, from the pod's side: ingress is what it gets. 0 is nothing said.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Bandwidth {
    ingress_rate: u64,
    ingress_burst: u64,
    egress_rate: u64,
    egress_burst: u64,
}

impl Rates {
    /// What the configuration says; the runtime's wish comes first.
    ///
    /// # Errors
    /// [`Code::Config`] for a bandwidth that is none.
    pub fn of(config: &Config) -> Result<Self, Error> {
        let mut rates = config.rate.clone().unwrap_or_default();
        let bandwidth = config.runtime_config.as_ref().and_then(|runtime| runtime.get("bandwidth"));
        if let Some(bandwidth) = bandwidth.filter(|bandwidth| !bandwidth.is_null()) {
            let Bandwidth { ingress_rate, ingress_burst, egress_rate, egress_burst } = read(bandwidth)?;
            if ingress_rate > 0 {
                (rates.tx, rates.tx_burst) = wish(ingress_rate, ingress_burst);
            }
            if egress_rate > 0 {
                (rates.rx, rates.rx_burst) = wish(egress_rate, egress_burst);
            }
        }
        Ok(rates)
    }

    /// Puts them into a port.
    #[must_use]
    pub fn within(self, port: v1::PortSpec) -> v1::PortSpec {
        v1::PortSpec {
            rx_rate: self.rx,
            rx_burst: self.rx_burst,
            rx_frame_rate: self.rx_frames,
            rx_frame_burst: self.rx_frame_burst,
            tx_rate: self.tx,
            tx_burst: self.tx_burst,
            tx_frame_rate: self.tx_frames,
            tx_frame_burst: self.tx_frame_burst,
            ..port
        }
    }

    /// Whether nothing is said.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

fn read(bandwidth: &Value) -> Result<Bandwidth, Error> {
    Bandwidth::deserialize(bandwidth).map_err(|error| {
        let message = format!("runtimeConfig.bandwidth {bandwidth} is not possible");
        Error::with(
            Code::Config,
            message,
            format!("use ingressRate, ingressBurst, egressRate, egressBurst in bits: {error}"),
        )
    })
}

/// Bits a second, and bits at once in bytes.
fn wish(rate: u64, burst: u64) -> (Option<String>, Option<u64>) {
    (Some(format!("{rate}bit")), (burst > 0).then(|| (burst / 8).clamp(1, MAX_BURST)))
}

/// culvertd's largest burst, in bytes; runtimes say "any" by large numbers.
const MAX_BURST: u64 = 1 << 30;

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(config: &str) -> Result<Rates, Error> {
        Rates::of(&serde_json::from_str(config).unwrap())
    }

    #[test]
    fn the_runtimes_wish_comes_first_in_each_direction() {
        let rate = r#""rate":{"rx":"100mbit","rx_burst":9000,"rx_frames":7,"tx":"1gbit","tx_burst":1}"#;
        let bandwidth = r#""runtimeConfig":{"bandwidth":{"ingressRate":8000000,"ingressBurst":80000}}"#;
        let text = |text: &str| Some(text.to_owned());
        let own = Rates { rx: text("100mbit"), rx_burst: Some(9000), rx_frames: Some(7), ..Rates::default() };
        let told = Rates { tx: text("1gbit"), tx_burst: Some(1), ..own.clone() };
        assert_eq!(rates(&format!("{{{rate}}}")).unwrap(), told);
        // Towards the pod is away from us.
        let both = Rates { tx: text("8000000bit"), tx_burst: Some(10_000), ..own };
        assert_eq!(rates(&format!("{{{rate},{bandwidth}}}")).unwrap(), both);
        let egress =
            r#"{"runtimeConfig":{"bandwidth":{"egressRate":1,"egressBurst":18446744073709551615,"ingressRate":0}}}"#;
        assert_eq!(rates(egress).unwrap(), Rates { rx: text("1bit"), rx_burst: Some(1 << 30), ..Rates::default() });
        for none in ["{}", r#"{"rate":{}}"#, r#"{"runtimeConfig":{"bandwidth":null}}"#, r#"{"rate":null}"#] {
            assert!(rates(none).unwrap().is_none(), "{none}");
        }
        let spec = Rates { rx: text("1gbit"), tx_frames: Some(3), ..Rates::default() }.within(v1::PortSpec::default());
        assert_eq!(spec, v1::PortSpec { rx_rate: text("1gbit"), tx_frame_rate: Some(3), ..v1::PortSpec::default() });
    }

    #[test]
    fn what_is_no_rate_is_refused() {
        for wrong in ["5", "\"fast\"", r#"{"ingressRate":-1}"#, r#"{"egressRate":"1M"}"#] {
            let error = rates(&format!(r#"{{"runtimeConfig":{{"bandwidth":{wrong}}}}}"#)).unwrap_err();
            assert_eq!(error.code, Code::Config, "{wrong}");
        }
        for wrong in [r#"{"rx":5}"#, r#"{"up":"1gbit"}"#, "7"] {
            assert!(serde_json::from_str::<Config>(&format!(r#"{{"rate":{wrong}}}"#)).is_err(), "{wrong}");
        }
    }
}
