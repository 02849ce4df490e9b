//! Backends from the other side of a lattice: the contract of the traits, and what a network adds to it.
#![cfg(test)]

mod blob_store;
mod conformance;
mod faults;
mod hosts;
mod wire;
