#![allow(clippy::unwrap_used)]

use std::fmt::Write;

use super::*;

const MESSAGES: [Message; 40] = {
    use Message::*;
    [
        Probe,
        Assign,
        Join,
        Release,
        Renew,
        RenewElsewhere,
        Replicate,
        Serving,
        Keys,
        Remove,
        Captures,
        ServingAnswer,
        Renewed,
        ControlStream,
        SpurtStream,
        Copies,
        EdgeHello,
        EdgeBeat,
        Open,
        Serve,
        Late,
        Participant,
        Left,
        State,
        Stats,
        Close,
        Confirm,
        HandOver,
        Forget,
        GivenUp,
        CoreHello,
        CoreBeat,
        Drain,
        Durable,
        Done,
        DoneTo,
        Refused,
        Leave,
        Standby,
        Moved,
    ]
};
const ROLES: [Role; 3] = [Role::Edge, Role::Core, Role::Dns];
const RELATIONS: [Relation; 7] = {
    use Relation::*;
    [Itself, Nobody, New, Core, Standby, Owner, Former]
};

/// `any`: wherever the sender is; `in`: within the residency only; `-`: never.
const WANTED: &str = "
message         at   from | itself nobody new core standby owner former
probe           edge core | any - - - - - -
assign          edge core | - - in in - - -
join            edge core | - - in in - - -
release         edge core | - - - any - - -
renew           core edge | - - - - - any any
renew           core core | - - - - - any any
renew_elsewhere edge edge | any - - - - - -
renew_elsewhere core edge | any - - - - - -
replicate       core core | - - in in - - -
serving         core edge | - - - - - any any
serving         core core | - any - any any - -
keys            core core | any - - - - - -
remove          core core | - - - any - - -
captures        edge core | - - any any - - -
serving_answer  edge core | - - - any - - -
serving_answer  core core | - - - any - - -
renewed         edge edge | - - - any - - -
renewed         edge core | - - - any - - -
control_stream  core edge | any - - - - - -
spurt_stream    core edge | - - - - - in in
copies          core edge | - - - - - in in
edge_hello      core edge | any - - - - - -
edge_beat       core edge | any - - - - - -
open            core edge | - - - - - in -
serve           core edge | - - - - - in -
late            core edge | - - - - - in in
participant     core edge | - - - - - in in
left            core edge | - - - - - in in
state           core edge | - - - - - in in
stats           core edge | - - - - - in in
close           core edge | - - - - - in in
confirm         core edge | - - - - - in in
hand_over       core edge | - - - - - in in
forget          core edge | - - - - - in in
given_up        core edge | - - - - - in in
core_hello      edge core | any - - - - - -
core_beat       edge core | any - - - - - -
drain           edge core | any - - - - - -
durable         edge core | - - - in - - -
done            edge core | - - - in - - -
done_to         edge core | - - - in - - -
refused         edge core | - - - in in - -
leave           edge core | - - - in - - -
standby         edge core | - - - in - - -
moved           edge core | - - - in in - -
";

/// Every cell of the table: 40 messages, 3 receivers, 3 senders, 7 relations, inside and outside. Lines without a yes are left out.
fn printed() -> String {
    let mut text = "\nmessage         at   from | itself nobody new core standby owner former\n".to_owned();
    for message in MESSAGES {
        for at in ROLES {
            for from in ROLES {
                let cells = RELATIONS.map(|who| cell(message, at, from, who));
                if cells.iter().any(|cell| *cell != "-") {
                    writeln!(
                        text,
                        "{:<15} {:<4} {:<4} | {}",
                        message.as_str(),
                        at.as_str(),
                        from.as_str(),
                        cells.join(" ")
                    )
                    .unwrap();
                }
            }
        }
    }
    text
}

fn cell(message: Message, at: Role, from: Role, who: Relation) -> &'static str {
    let allowed = |residency| check(message, at, from, who, residency).is_ok();
    match (allowed(Residency::Inside), allowed(Residency::Outside)) {
        (true, true) => "any",
        (true, false) => "in",
        (false, false) => "-",
        (false, true) => panic!("{message} only from outside"),
    }
}

#[test]
fn the_table_is_what_it_is_meant_to_be_cell_by_cell() {
    let printed = printed();
    assert_eq!(printed.lines().map(str::trim_end).collect::<Vec<_>>(), WANTED.lines().collect::<Vec<_>>(), "{printed}");
}

#[test]
fn every_row_is_reached_and_every_kind_has_one() {
    let lines = WANTED.lines().skip(2).count();
    assert_eq!(TABLE.len(), lines, "no row hides another");
    for message in MESSAGES {
        assert!(TABLE.iter().any(|row| row.message == message), "{message}");
    }
}

#[test]
fn a_name_server_is_told_nothing_and_listened_to_by_nobody() {
    for message in MESSAGES {
        for other in ROLES {
            assert!(check_role(message, Role::Dns, other).is_err() && check_role(message, other, Role::Dns).is_err());
        }
    }
}

#[test]
fn a_refusal_says_what_speaks_against_it() {
    let told = |at, from, who, residency| check(Message::Join, at, from, who, residency).unwrap_err().to_string();
    assert_eq!(
        told(Role::Edge, Role::Edge, Relation::New, Residency::Inside),
        "`join` refused: a node of role edge may not send it to a node of role edge"
    );
    assert_eq!(
        told(Role::Edge, Role::Core, Relation::Nobody, Residency::Inside),
        "`join` refused: the sender has not shown that it has a part in the meeting"
    );
    assert_eq!(
        told(Role::Edge, Role::Core, Relation::Core, Residency::Outside),
        "`join` refused: the sender's region is outside the meeting's residency"
    );
}
