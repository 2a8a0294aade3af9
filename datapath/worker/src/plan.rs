//! What workers run until control publishes the next plan. A plan never changes; the inputs in it are handed over once.

use std::sync::{Mutex, PoisonError};

use culvert_switch::Topology;

use crate::input::Input;

/// One plan for all workers.
#[derive(Debug)]
pub struct Plan {
    /// Counts up from 1.
    pub generation: u64,
    /// Ports and networks.
    pub topology: Topology,
    /// For each worker what it polls. The worker takes it, and leaves here what it polled before, so that control and not
    /// the worker frees that.
    inputs: Box<[Mutex<Vec<Input>>]>,
}

impl Plan {
    /// A plan in which worker `i` polls `inputs[i]`.
    pub fn new(generation: u64, topology: Topology, inputs: Vec<Vec<Input>>) -> Self {
        Self { generation, topology, inputs: inputs.into_iter().map(Mutex::new).collect() }
    }

    /// Exchanges the inputs of one worker: in go those of its last plan, out come those of this one.
    pub fn exchange(&self, worker: usize, inputs: &mut Vec<Input>) {
        if let Some(mine) = self.inputs.get(worker) {
            std::mem::swap(inputs, &mut *mine.lock().unwrap_or_else(PoisonError::into_inner));
        } else {
            inputs.clear();
        }
    }

    /// Frees the inputs of earlier plans that workers have left here; to be called when all have taken up this one.
    pub fn free_left(&self) {
        self.inputs.iter().for_each(|inputs| inputs.lock().unwrap_or_else(PoisonError::into_inner).clear());
    }
}
