//! The translator as it runs: its protocol cores, its sockets, the way to the guest, and what is forwarded; and what
//! can be asked of it and changed by the control socket.

use anyhow::Result;
use culvert_translate::forward::{ForwardTable, Protocol, Rule, open_all};
use culvert_translate::refusal::Refusal;
use culvert_translate::request::Controlled;
use culvert_translate::socket::KernelSockets;
use culvert_translate::sockets::SocketId;
use culvert_translate::translator::Translator;
use culvert_translate::transport::Transport;

/// A translator with its sockets and its guest.
#[derive(Debug)]
pub struct Running {
    /// The protocol cores.
    pub translator: Translator,
    /// Their sockets.
    pub sockets: KernelSockets,
    /// The way to the guest.
    pub transport: Transport,
    forwards: ForwardTable,
    freebind: bool,
    /// How many descriptors best-effort forwards may take.
    most_best_effort: usize,
}

impl Running {
    /// Opens what is forwarded.
    ///
    /// # Errors
    /// A port that cannot be opened, with the remedy.
    pub fn new(
        translator: Translator,
        sockets: KernelSockets,
        transport: Transport,
        forwards: ForwardTable,
        freebind: bool,
        most_best_effort: usize,
    ) -> Result<Self> {
        let none = forwards.without_rules();
        let mut running = Self { translator, sockets, transport, forwards: none, freebind, most_best_effort };
        running.change(forwards)?;
        Ok(running)
    }

    /// Makes `new` what is forwarded, or leaves everything as it is.
    fn change(&mut self, new: ForwardTable) -> Result<()> {
        let Self { translator, sockets, freebind, most_best_effort, .. } = self;
        let changes = self.forwards.changes_to(&new);
        for listen in &changes.close {
            translator.close_forward(listen, sockets);
        }
        let mut opened = Vec::new();
        let room = most_best_effort.saturating_sub(translator.best_effort_forwards());
        let result = open_all(changes.open, room, |listen| {
            translator.open_forward(listen, *freebind, sockets)?;
            opened.push(listen.clone());
            Ok(())
        });
        if let Err(error) = result {
            for listen in &opened {
                translator.close_forward(listen, sockets);
            }
            for listen in &changes.close {
                // It was open a moment ago.
                if let Err(error) = translator.open_forward(listen, *freebind, sockets) {
                    tracing::warn!("{listen} is no longer forwarded: {error}");
                }
            }
            return Err(error.into());
        }
        self.forwards = new;
        Ok(())
    }

    fn edit(&mut self, edit: impl FnOnce(&mut ForwardTable) -> Result<(), String>) -> Result<(), String> {
        let mut new = self.forwards.clone();
        edit(&mut new)?;
        self.change(new).map_err(|error| format!("{error:#}"))
    }
}

impl Controlled for Running {
    fn forwards(&self) -> &[Rule] {
        self.forwards.rules()
    }

    fn add_forward(&mut self, protocol: Protocol, spec: &str) -> Result<(), String> {
        self.edit(|table| table.add(protocol, spec).map_err(|error| error.to_string()))
    }

    fn remove_forward(&mut self, protocol: Protocol, spec: &str) -> Result<(), String> {
        self.edit(|table| table.remove(protocol, spec).map_err(|error| error.to_string()))
    }

    fn flows(&self, each: &mut dyn FnMut(&str) -> bool) {
        for (index, ends) in self.translator.tcp().iter() {
            let far = self.sockets.peer(SocketId::Tcp(index)).unwrap_or(ends.peer);
            if !each(&format!("tcp {ends} far {far}")) {
                return;
            }
        }
        for ends in self.translator.udp().iter() {
            if !each(&format!("udp {ends}")) {
                return;
            }
        }
    }

    fn statistics(&self) -> Vec<(&'static str, u64)> {
        let (counters, transport) = (self.translator.counters(), self.transport.totals());
        let mut statistics = vec![
            ("rx_frames", counters.rx_frames),
            ("rx_bytes", counters.rx_bytes),
            ("tx_frames", counters.tx_frames),
            ("tx_bytes", counters.tx_bytes),
            ("tcp_flows", self.translator.tcp().len() as u64),
            ("udp_flows", self.translator.udp().len() as u64),
            ("echo_flows", self.translator.echo().len() as u64),
            ("tcp_flows_total", counters.tcp_flows),
            ("udp_flows_total", counters.udp_flows),
            ("echo_flows_total", counters.echo_flows),
            ("guest_connections", transport.connections),
            ("guest_faults", transport.quarantined),
            ("tx_segmented", transport.tx_segmented),
            ("refused_queue_disabled", transport.rx_disabled),
            ("refused_guest_buffer", transport.tx_refused),
        ];
        statistics.extend(Refusal::ALL.map(|reason| (reason.name(), counters.refused(reason))));
        statistics
    }
}
