//! The matrix of known inventories, of random ones, and what nft makes of it.

mod firewall;
mod known;
mod random;
mod worlds;
