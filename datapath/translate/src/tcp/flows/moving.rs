//! Connections that move to another machine with their guest: how they are read here, and made there.
//!
//! Whether they go on here after all, or there, is known later: until then their sockets are held on both sides.

use super::{Flow, SocketState, TcpFlows};
use crate::context::Context;
use crate::flow_table::HasEnds;
use crate::forward::Protocol;
use crate::limits::Share;
use crate::link::GuestLink;
use crate::mapping;
use crate::migration::TcpState;
use crate::migration::lost::Lost;
use crate::sockets::moving::{MovingStreams, StreamState, Wish};
use crate::sockets::{SocketId, TcpSockets};
use crate::tcp::{Config, Connection, SavedConnection, Stage};
use crate::time::Instant;

impl TcpFlows {
    /// All connections, as thread `lane` has them, and their sockets held. Those whose sockets cannot be read are lost, unless
    /// they go on here. `most`: how many bytes of queues there may be; what there was is taken off.
    pub fn save<S: TcpSockets + MovingStreams, L: GuestLink>(
        &mut self,
        ctx: &mut Context<'_, S, L>,
        lane: u8,
        most: &mut usize,
    ) -> Vec<TcpState> {
        self.finish(ctx);
        let all: Vec<(u32, SavedConnection)> =
            self.flows.iter().filter_map(|(index, flow)| Some((index, flow.connection.saved()?))).collect();
        let ids: Vec<_> = all.iter().filter(|(_, saved)| has_socket(saved)).map(|(index, _)| id(*index)).collect();
        let held = ctx.sockets.hold(&ids);
        // Where nobody helps they go on as they were, those as well that were switched already.
        self.held = if held.is_ok() { ids } else { ctx.sockets.let_go(&ids) };
        let mut states = Vec::with_capacity(all.len());
        for (index, connection) in all {
            let Some(flow) = self.flows.get(index) else { continue };
            let ends = flow.ends();
            let stream = connection.has_stream().then(|| {
                held?;
                let stream = ctx.sockets.read_stream(id(index))?;
                *most = most.checked_sub(stream.size()).ok_or(Lost::TooMuch)?;
                Ok(stream)
            });
            let mut state = TcpState { ends, lane, connection, stream: None };
            let moves = stream.transpose().and_then(|stream| {
                state.stream = stream;
                // What could not be read there would spoil the rest.
                if state.is_whole() { Ok(()) } else { Err(Lost::State) }
            });
            match moves {
                Ok(()) => ctx.counters.moved.saved[0] += 1,
                Err(reason) => {
                    ctx.counters.moved.lose(reason);
                    tracing::debug!(%ends, "a connection does not move: {}", reason.reason());
                    // The guest hears there that it is over.
                    state.stream = None;
                    if !state.is_whole() {
                        continue;
                    }
                }
            }
            states.push(state);
        }
        states
    }

    /// The guest stays here: connections that were saved go on.
    pub fn go_on<S: TcpSockets + MovingStreams, L: GuestLink>(&mut self, ctx: &mut Context<'_, S, L>) {
        let held = std::mem::take(&mut self.held);
        let stuck = ctx.sockets.let_go(&held);
        if !stuck.is_empty() {
            tracing::warn!("{} of {} connections cannot go on: {}", stuck.len(), held.len(), Lost::Helper.reason());
        }
        for id in stuck {
            ctx.counters.moved.lose(Lost::Helper);
            if let SocketId::Tcp(index) = id
                && let Some(flow) = self.flows.get_mut(index)
            {
                flow.connection.on_failed(ctx.now, crate::tcp::Failure::Reset);
            }
        }
        let all: Vec<u32> = self.flows.iter().map(|(index, _)| index).collect();
        for index in all {
            if let Some(flow) = self.flows.get_mut(index) {
                // Room that there is since before was told while nothing was done.
                if let Some(ticket) = flow.ticket.take() {
                    self.blocked.remove(&ticket);
                    flow.connection.on_unblocked();
                }
                flow.connection.on_readable();
                flow.connection.on_writable();
            }
            // What happened meanwhile made an event that nobody looked at.
            if self.flows.get(index).is_some_and(|flow| flow.socket == SocketState::Connecting) {
                ctx.sockets.await_writable(id(index));
            }
            self.touch(index);
        }
    }

    /// The guest has gone elsewhere: connections that were saved are none of ours any more. The far ends of the others hear
    /// that they are over.
    pub fn forget_all<S: TcpSockets, L: GuestLink>(&mut self, ctx: &mut Context<'_, S, L>) {
        self.held.clear();
        let all: Vec<u32> = self.flows.iter().map(|(index, _)| index).collect();
        for index in all {
            // Of a socket that is held nobody hears anything.
            ctx.sockets.reset(id(index));
            self.forget(ctx, index);
        }
    }

    /// Connections of a guest that comes here. Their sockets are held until [`Self::go_on`].
    pub fn load<S: TcpSockets + MovingStreams, L: GuestLink>(
        &mut self,
        ctx: &mut Context<'_, S, L>,
        states: Vec<TcpState>,
    ) {
        let mut placed = Vec::new();
        for mut state in states {
            let stream = state.stream.take();
            // Without a stream where there should be one it was lost where it was, and counted there.
            let permitted = permit(ctx, &state, stream.as_ref());
            let is_lost = permitted.is_err() || (state.connection.has_stream() && stream.is_none());
            match self.place(ctx, &state, is_lost) {
                Ok(index) => {
                    if let Err(reason) = permitted {
                        ctx.counters.moved.lose(reason);
                    } else if !is_lost {
                        placed.push((index, state, stream));
                    }
                }
                Err(reason) => ctx.counters.moved.lose(reason),
            }
        }
        let mut streams: Vec<(u32, StreamState)> = Vec::new();
        for (index, state, stream) in placed {
            match stream {
                Some(stream) => streams.push((index, stream)),
                None => {
                    ctx.counters.moved.loaded[0] += 1;
                    if state.connection.stage() == Stage::Connecting {
                        self.connect_anew(ctx, index);
                    }
                }
            }
        }
        let settings = ctx.settings;
        let has_more: Vec<_> =
            streams.iter().map(|(_, stream)| !stream.receive_queue.is_empty() || stream.has_ended).collect();
        let wishes = streams.iter_mut().map(|(index, state)| {
            let interface = mapping::outbound(settings, state.far.ip()).interface;
            Wish { id: id(*index), interface, state }
        });
        let made = ctx.sockets.make_streams(wishes.collect());
        for (((index, _), made), has_more) in streams.iter().zip(made).zip(has_more) {
            let Some(flow) = self.flows.get_mut(*index) else { continue };
            match made {
                Ok(()) => {
                    ctx.counters.moved.loaded[0] += 1;
                    self.held.push(id(*index));
                    if has_more {
                        flow.socket = SocketState::Stopping;
                    }
                }
                Err(reason) => {
                    ctx.counters.moved.lose(reason);
                    tracing::debug!(ends = %flow.ends(), "a connection is lost: {}", reason.reason());
                    flow.connection.on_failed(ctx.now, crate::tcp::Failure::Reset);
                }
            }
        }
    }

    /// The clock of timestamps, in milliseconds.
    pub fn clock(&self, now: Instant) -> u32 {
        self.v4.clock(now)
    }

    /// From now on that clock shows `clock`: a guest takes no segment that seems older than the last one.
    pub fn set_clock(&mut self, now: Instant, clock: u32) {
        for config in [&mut self.v4, &mut self.v6] {
            let mut new = Config::clone(config);
            new.clock_offset = new.clock_offset.wrapping_add(clock.wrapping_sub(config.clock(now)));
            *config = std::sync::Arc::new(new);
        }
    }

    fn place<S: TcpSockets, L: GuestLink>(
        &mut self,
        ctx: &mut Context<'_, S, L>,
        state: &TcpState,
        is_lost: bool,
    ) -> Result<u32, Lost> {
        let TcpState { ends, connection, .. } = state;
        if self.flows.find(ends).is_some() {
            return Err(Lost::NoRoom);
        }
        ctx.limits.take(Share::Tcp).map_err(|_| Lost::NoRoom)?;
        if ctx.claim(Protocol::Tcp, ends).is_err() {
            ctx.limits.close(Share::Tcp);
            return Err(Lost::NoRoom);
        }
        let config = self.config(ends.peer.ip());
        let saved = connection;
        let connection = Connection::from_saved(ctx.now, saved, is_lost, config);
        let is_connecting = saved.stage() == Stage::Connecting && !is_lost;
        let socket = if is_connecting { SocketState::Connecting } else { SocketState::Connected };
        let index = self.insert(Flow::new(*ends, connection, socket));
        self.touch(index);
        Ok(index)
    }

    /// A connection that was never made is made from here.
    fn connect_anew<S: TcpSockets, L: GuestLink>(&mut self, ctx: &mut Context<'_, S, L>, index: u32) {
        let Some(peer) = self.flows.get(index).map(|flow| flow.ends().peer) else { return };
        let Ok(to) = ctx.towards_host(peer) else { return };
        let outbound = mapping::outbound(ctx.settings, to.ip());
        if let Err(error) = ctx.sockets.connect(id(index), to, &outbound) {
            self.fail(ctx, index, &error);
        }
    }
}

/// Whether a connection has a socket, connected or not.
fn has_socket(saved: &SavedConnection) -> bool {
    saved.has_stream() || saved.stage() == Stage::Connecting
}

const fn id(index: u32) -> SocketId {
    SocketId::Tcp(index)
}

/// A guest that comes may only reach what one that begins here may.
fn permit<S: TcpSockets, L>(
    ctx: &mut Context<'_, S, L>,
    state: &TcpState,
    stream: Option<&StreamState>,
) -> Result<(), Lost> {
    let there = if state.ends.peer.is_ipv4() { ctx.settings.v4.is_some() } else { ctx.settings.v6.is_some() };
    if !there || !ctx.settings.services.tcp || ctx.settings.is_ours(state.ends.guest.ip()) {
        return Err(Lost::NotAllowed);
    }
    match (stream, state.connection.stage()) {
        (Some(stream), _) => crate::migration::permit(ctx, &state.ends, stream.far),
        (None, Stage::Connecting) => ctx.towards_host(state.ends.peer).map(|_| ()).map_err(|_| Lost::NotAllowed),
        (None, _) => Ok(()),
    }
}
