//! The code of the kernel programs in ordinary memory, where all that it reads is the
//! test's: bytes, what the kernel says of a packet, tables, the clock.

#[path = "host/adopting.rs"]
mod adopting;
#[path = "host/arriving.rs"]
mod arriving;
#[path = "host/bypassing.rs"]
mod bypassing;
#[path = "host/contending.rs"]
mod contending;
#[path = "host/following.rs"]
mod following;
#[path = "host/growing.rs"]
mod growing;
#[path = "host/hits.rs"]
mod hits;
#[path = "host/hurrying.rs"]
mod hurrying;
#[path = "host/judging.rs"]
mod judging;
#[path = "host/leaving.rs"]
mod leaving;
#[path = "host/load.rs"]
mod load;
#[path = "host/parsing.rs"]
mod parsing;
#[path = "host/resolving.rs"]
mod resolving;
#[path = "host/scene.rs"]
mod scene;
#[path = "host/services.rs"]
mod services;
#[path = "host/signalling.rs"]
mod signalling;
#[path = "host/telling.rs"]
mod telling;
#[path = "host/watched.rs"]
mod watched;
