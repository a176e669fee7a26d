//! What the agent does on a host: it looks at everything that the planner may
//! ask, and does single actions of a plan. Framing and transport are elsewhere.

pub mod accounts;
pub mod api;
pub mod apply;
pub mod atomic;
pub mod channel;
pub mod cluster;
pub mod command;
pub mod compare;
pub mod condition;
pub mod etcdctl;
pub mod failure;
mod generations;
pub mod host_lock;
pub mod http;
mod inside;
pub mod install;
pub mod journal;
pub mod kubectl;
mod leadership;
mod moving;
pub mod netlink;
pub mod observe;
mod registry_client;
mod registry_question;
pub mod root;
pub mod route;
pub mod run;
pub mod seed;
pub mod serve;
mod silence;
mod snapshots;
pub mod staging;
mod taken_up;
#[cfg(test)]
pub(crate) mod test_host;
mod usage;
mod worker;
mod workloads;

pub use channel::{
    BodyCutOff, BodyReceiver, BodyRefused, BodySender, NoticeSender, body_channel, notice_channel,
};
pub use moving::Moving;
pub use root::Root;
pub use worker::Worker;
