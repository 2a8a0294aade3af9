//! A translator whose guest moves: what is saved of it, what is loaded, and what becomes of it when the guest stays, or has
//! come, or has gone.
//!
//! While it is not known where the guest goes on, nothing is done here: sockets are held, events and time pass unseen
//! ([`Translator::is_waiting`]).

use super::Translator;
use crate::forward::{Protocol, Rule};
use crate::guest::Guest;
use crate::link::GuestLink;
use crate::migration::fields::is_readable;
use crate::migration::lost::{Lost, Moved};
use crate::migration::{Misfit, State, Told};
use crate::settings::Settings;
use crate::sockets::moving::MovingStreams;
use crate::sockets::{SocketId, Sockets};
use crate::time::Instant;

/// What a thread is to do.
#[derive(Debug)]
pub enum MoveOrder {
    /// [`Translator::save`], with what is forwarded and at most so many bytes.
    Save(Vec<Rule>, usize),
    /// [`Translator::go_on`].
    GoOn,
    /// [`Translator::forget_all`].
    ForgetAll,
    /// [`Translator::load`].
    Load(Box<State>),
}

/// What came of it.
#[derive(Debug)]
pub struct MoveAnswer {
    /// What was saved.
    pub state: Option<State>,
    /// Flows that were lost by it.
    pub lost: u64,
    /// Why nothing was loaded.
    pub misfit: Option<Misfit>,
}

/// What came with a guest from another machine, and what it is in place of.
#[derive(Debug)]
pub(super) struct Adopted {
    /// By which it is told of its addresses: its lease stays.
    pub(super) leased: Settings,
    /// What was configured. It holds again once the guest has gone.
    own: Settings,
}

impl Translator {
    /// Does one of them.
    pub fn obey<S: Sockets + MovingStreams, L: GuestLink>(
        &mut self,
        now: Instant,
        order: MoveOrder,
        sockets: &mut S,
        link: &mut L,
    ) -> MoveAnswer {
        let before = self.moved().all_lost();
        let (mut state, mut misfit) = (None, None);
        match order {
            MoveOrder::Save(forwards, mut most) => state = Some(self.save(now, &forwards, &mut most, (sockets, link))),
            MoveOrder::GoOn => self.go_on(now, sockets, link),
            MoveOrder::ForgetAll => self.forget_all(now, sockets, link),
            MoveOrder::Load(state) => misfit = self.load(now, *state, sockets, link).err(),
        }
        MoveAnswer { state, lost: self.moved().all_lost() - before, misfit }
    }

    /// Whether the guest is on its way, so that nothing may be done.
    pub const fn is_waiting(&self) -> bool {
        self.is_waiting
    }

    /// What this thread has of the guest; `forwards` is what is forwarded. Sockets are held from now on, and flows stay:
    /// [`Self::go_on`] or [`Self::forget_all`] follows. `most`: how many bytes there may be; what there are is taken off.
    pub fn save<S: Sockets + MovingStreams, L: GuestLink>(
        &mut self,
        now: Instant,
        forwards: &[Rule],
        most: &mut usize,
        (sockets, link): (&mut S, &mut L),
    ) -> State {
        self.is_waiting = true;
        let lane = self.shared.lane.as_ref().map_or(0, crate::lane::Lane::number);
        let lane = u8::try_from(lane).unwrap_or(0);
        let told = Told::of(self.shared.leased());
        let guest = self.shared.guest;
        let clock = self.tcp.clock(now);
        let groups = self.groups.all();
        let ctx = &mut self.shared.context(now, sockets, link);
        self.udp.flush(ctx);
        let tcp = self.tcp.save(ctx, lane, most);
        let (mut udp, mut echo) = (self.udp.save(lane), self.echo.save());
        // What could not be read there would spoil the rest.
        let all = udp.len() + echo.len();
        udp.retain(is_readable);
        echo.retain(is_readable);
        (0..all - udp.len() - echo.len()).for_each(|_| ctx.counters.moved.lose(Lost::State));
        ctx.counters.moved.saved[1] += udp.len() as u64;
        ctx.counters.moved.saved[2] += echo.len() as u64;
        let forwards = forwards.iter().filter(|rule| is_readable(*rule)).cloned().collect();
        State { told, guest, clock, groups, forwards, udp, echo, tcp }
    }

    /// The guest is here after all, or has come: what was held goes on.
    pub fn go_on<S: Sockets + MovingStreams, L: GuestLink>(&mut self, now: Instant, sockets: &mut S, link: &mut L) {
        self.is_waiting = false;
        self.tcp.go_on(&mut self.shared.context(now, sockets, link));
        let udp = self.udp.indices().into_iter().map(SocketId::Udp);
        let echo = self.echo.indices().into_iter().map(SocketId::Echo);
        // What happened meanwhile made events that nobody looked at.
        self.unfinished.extend(udp.chain(echo).map(|id| (id, now)));
        self.look_at_listeners(now);
    }

    /// As if something had come for each.
    fn look_at_listeners(&mut self, now: Instant) {
        let listeners = self.forwards.iter().filter_map(|(index, listen)| {
            let index = u32::try_from(index).ok()?;
            Some(match listen.protocol {
                Protocol::Tcp => SocketId::TcpListener(index),
                Protocol::Udp => SocketId::UdpListener(index),
            })
        });
        self.unfinished.extend(listeners.map(|id| (id, now)));
        if self.steered.ports(Protocol::Tcp).next().is_some() {
            self.unfinished.insert(SocketId::SteeredTcp, now);
        }
        if self.steered.ports(Protocol::Udp).next().is_some() {
            self.unfinished.insert(SocketId::SteeredUdp, now);
        }
    }

    /// The guest has gone elsewhere, or did not come: nothing of its flows is left here, and nobody hears of it but far ends of
    /// connections that could not move.
    pub fn forget_all<S: Sockets, L: GuestLink>(&mut self, now: Instant, sockets: &mut S, link: &mut L) {
        self.is_waiting = false;
        self.unfinished.retain(|id, _| !matches!(id, SocketId::Udp(_) | SocketId::Echo(_)));
        self.look_at_listeners(now);
        let ctx = &mut self.shared.context(now, sockets, link);
        self.tcp.forget_all(ctx);
        self.udp.forget_all(ctx);
        self.echo.forget_all(ctx);
        self.groups.forget_all(ctx);
        if let Some(adopted) = self.shared.adopted.take() {
            self.shared.settings = adopted.own;
        }
        let longest_packet = self.shared.guest.longest_packet;
        self.shared.guest = Guest { longest_packet, ..Guest::new(&self.shared.settings) };
        if let Some(lane) = &mut self.shared.lane {
            lane.tell_of_guest(&mut self.shared.guest);
        }
    }

    /// A guest comes: what is known of it, and this thread's part of its flows. Flows that cannot go on here are lost; the
    /// guest hears RST where those were connections. Sockets are held until [`Self::go_on`].
    ///
    /// # Errors
    /// It cannot live here: nothing is changed.
    pub fn load<S: Sockets + MovingStreams, L: GuestLink>(
        &mut self,
        now: Instant,
        state: State,
        sockets: &mut S,
        link: &mut L,
    ) -> Result<(), Misfit> {
        let State { told, guest, clock, groups, udp, echo, tcp, .. } = state;
        told.check(&self.shared.settings)?;
        self.is_waiting = true;
        let own = self.shared.adopted.take().map_or_else(|| self.shared.settings.clone(), |adopted| adopted.own);
        self.shared.settings = own.clone();
        let leased = told.adopt(&mut self.shared.settings);
        self.shared.adopted = Some(Box::new(Adopted { leased, own }));
        self.shared.guest = Guest { longest_packet: self.shared.guest.longest_packet, ..guest };
        if let Some(lane) = &mut self.shared.lane {
            lane.tell_of_guest(&mut self.shared.guest);
        }
        self.tcp.set_clock(now, clock);
        let ctx = &mut self.shared.context(now, sockets, link);
        self.groups.load(ctx, &groups);
        for flow in &udp {
            match self.udp.load(ctx, flow) {
                Ok(()) => ctx.counters.moved.loaded[1] += 1,
                Err(reason) => ctx.counters.moved.lose(reason),
            }
        }
        for flow in &echo {
            match self.echo.load(ctx, flow) {
                Ok(()) => ctx.counters.moved.loaded[2] += 1,
                Err(reason) => ctx.counters.moved.lose(reason),
            }
        }
        self.tcp.load(ctx, tcp);
        Ok(())
    }

    /// What has moved, counted.
    pub const fn moved(&self) -> &Moved {
        &self.shared.counters.moved
    }

    /// What was configured, as it is now.
    pub const fn settings(&self) -> &Settings {
        &self.shared.settings
    }
}

#[cfg(test)]
mod tests;
