//! Why a desired state could not be made.

/// What is wrong with the inputs taken together; each is well-formed alone.
#[derive(Debug, thiserror::Error)]
pub enum DesiredError {
    #[error(
        "the bundle {bundle} has no files for {platform}, which host {host} needs; build one with this platform"
    )]
    Platform {
        bundle: String,
        platform: String,
        host: String,
    },
    #[error("the bundle {bundle} has no file `{file}` for {platform}, which host {host} needs")]
    File {
        bundle: String,
        file: String,
        platform: String,
        host: String,
    },
    #[error("the bundle {bundle} has no image {repository}, which every node needs")]
    Image { bundle: String, repository: String },
    #[error("nothing is decided about host {host} yet; it was never observed")]
    Undecided { host: String },
    #[error(
        "host {host} keeps its generation {generation}, to which a rollback took it, and that has \
         no {unit}: the inventory gave it that since; take the host along with `cofferdam \
         upgrade`, or give it back the roles that it had"
    )]
    Held {
        host: String,
        generation: u64,
        unit: String,
    },
    #[error("rendering {what}: {reason}")]
    Render { what: String, reason: String },
}
