/* How a queue comes to its end: the ledger's scripts, and whatever may go wrong around them.

   Two linked queues: queue 0 gets its chunks from producers; of each comes a chunk of queue 1, or none; queue 0 is
   itself a producer, the "stage", of queue 1. An inline named x_lua is state/lua/x.lua. It is only called inside a
   d_step: to everybody else a script is one step. Read the scripts, then the processes, then check(), which is what
   has to hold. README.md says what is left out and how to read a trail; `check` runs it all. */

/* --- what is varied: spin -D -------------------------------------------------------------------------------------- */

#ifndef PUTS_0
#define PUTS_0 2          /* chunks that producer 0 puts; together no more than CHUNKS */
#endif
#ifndef PUTS_1
#define PUTS_1 1          /* chunks that producer 1 puts */
#endif
#ifndef FEEDS_1
#define FEEDS_1 0         /* the queue that producer 1 puts into */
#endif
#ifndef EXPECTED
#define EXPECTED 0        /* producers=N of queue 0 */
#endif
#ifndef LIVES
#define LIVES 1           /* leases that a producer takes out at most: crashed or given up, it may come back */
#endif
#ifndef CRASH_LIMIT
#define CRASH_LIMIT 2     /* a chunk whose slot died so often with it is a dead letter */
#endif
#ifndef RAISES
#define RAISES 0          /* 1: a chunk may come to nothing, to a dead letter or to another try, too */
#endif
#ifndef OPERATOR
#define OPERATOR 0        /* 1: somebody may seal or cancel one of the queues */
#endif
#ifndef TROUBLE
#define TROUBLE 0         /* how often what could happen for ever does: a reply is lost, a ticket given back */
#endif
#ifndef MUTANT
#define MUTANT 0          /* one of the errors below, which has to be found */
#endif

/* Errors, and what to vary so that they can show. `check` reads this list. */
#define SETTLE_IGNORES_LEASED 1          /* base: "no producers and nothing in the queue" */
#define SETTLE_IGNORES_DELAYED 2         /* raises */
#define SETTLE_IGNORES_PRODUCERS 3       /* base: an empty queue is a finished one */
#define SETTLE_IGNORES_EXPECTED 4        /* expected */
#define SETTLE_IGNORES_STAGES 5          /* operator: seal() shuts out the stage as if it were a producer */
#define PRODUCERS_ARE_COUNTED 6          /* base: a bare counter, no lease: who crashes never leaves */
#define LOST_COUNTS_AS_LEFT 7            /* base */
#define LEAVE_COUNTS_TWICE 8             /* wire: a leave that is sent again counts again */
#define LEAVE_BY_A_FORMER_LIFE 9         /* back: epochs are not compared */
#define PUT_BY_A_FORMER_LIFE 10          /* back */
#define PUT_NOT_RECOGNISED 11            /* wire: a put that is sent again is a new one */
#define COMPLETION_NOT_FENCED 12         /* base: a ticket that was given up completes all the same */
#define COMPLETION_NOT_RECOGNISED 13     /* wire: a completion that is sent again counts again */
#define HAND_FORGOTTEN 14                /* wire: who asks again is given another chunk, not the one it holds */
#define GIVEBACK_FORGETS_HAND 15         /* base: what a crashed slot held does not come back */
#define REAP_DOES_NOT_SETTLE 16          /* base */
#define CRASHES_ARE_NOT_COUNTED 17       /* base-cycles: a chunk that kills its slot is tried for ever */
#define OUTPUTS_IN_A_SECOND_STEP 18      /* base: the stage may have left before its last output is there */
#define STAGE_LEAVES_IN_A_SECOND_STEP 19 /* base: the slot that drains queue 0 may crash before it says so to queue 1 */
#define CHECKED_THEN_ENDED 20            /* base: one script finds that all is done, another one ends the queue */

/* --- words -------------------------------------------------------------------------------------------------------- */

#define SLOTS 2
#define CHUNKS 3          /* of each queue; queue 1's chunk c comes of queue 0's chunk c */
#define NONE 3            /* no chunk, no ticket, no queue */

#define FEEDS(p) (p * FEEDS_1)
#define PUTS(p) (p == 0 -> PUTS_0 : PUTS_1)
#define FIRST(p) (p * PUTS_0)  /* a producer's first chunk */

/* A queue: */
#define NEW 0
#define OPEN 1
#define SEALED 2
#define DRAINED 3
#define INCOMPLETE 4
#define CANCELLED 5
#define ENDED(q) (state[q] >= DRAINED)
#define BOTH_ENDED (ENDED(0) && ENDED(1))

/* A producer's record: */
#define UNKNOWN 0
#define LIVE 1
#define LEFT 2
#define LOST 3

/* A chunk: */
#define NOWHERE 0
#define READY 1
#define LEASED 2
#define DELAYED 3
#define OVER 4            /* done or dead: nothing that follows depends on which */
#define IN(q, where) ((place[3*(q)] == where) + (place[3*(q)+1] == where) + (place[3*(q)+2] == where))

/* What a function made of it: */
#define PASSED 0          /* done, with an output for the queue downstream */
#define FILTERED 1        /* done, without */
#define FAILED 2          /* dead */
#define RETRY 3           /* delayed */

mtype = { OK, NOTHING, REFUSED, FINISHED }  /* replies; REFUSED is LOST there, FINISHED is ENDED */

/* --- the ledger --------------------------------------------------------------------------------------------------- */

byte state[2];
bool sealed[2];                                   /* by seal() */
byte live[2], stages[2], come[2], lost[2];        /* what meta counts */
byte ready[2], leased[2], delayed[2], over[2];    /* over: done + dead */
byte place[6], tries[6];                          /* by queue * CHUNKS + chunk */
byte how[2], epoch[2], seq[2];                    /* the producers' records */
byte stage;                                       /* the stage's record */
byte queue_of[SLOTS] = NONE, hand[SLOTS] = NONE;  /* tickets; slot t runs ticket t */

/* --- the world ---------------------------------------------------------------------------------------------------- */

bool idle[SLOTS] = true;
byte trouble = TROUBLE;
bool operator = OPERATOR;                         /* has not been here yet */
byte late, late_p, late_epoch;                    /* a call on the wire whose producer is dead: 0 none; */
#define LATE_LEAVE CHUNKS + 1                     /* the number of the chunk that it puts; or this */

mtype reply;                                      /* of the script that ran last; 0 between two steps */
byte got, pick;                                   /* the chunk that next gives, the one that it is to give */
byte i;                                           /* scratch */
byte owed = NONE;                                 /* a mutant's output that is still to come */

/* --- what only check() reads: who is there, as the world has it, not the ledger ----------------------------------- */

byte fate[2];
#define NOT_COME 0
#define THERE 1
#define CLOSED 2          /* put all it had, and said so */
#define GIVEN_UP 3        /* its lease ran out, and it has not come back */
#define SOME(q, what) ((FEEDS(0) == q && fate[0] == what) || (FEEDS(1) == q && fate[1] == what))

byte ends[2];

#define WORK_THERE(q) (IN(q, READY) + IN(q, LEASED) + IN(q, DELAYED))
#define MAY_SEAL(q) (state[q] == OPEN && live[q] == 0 && come[q] >= (q == 0 -> EXPECTED : 0))
#define MAY_END(q) (state[q] == SEALED && WORK_THERE(q) == 0 && stages[q] == 0)

inline check_queue(q) {
  /* Each chunk is in one place, and counted there. */
  assert(ready[q] == IN(q, READY) && leased[q] == IN(q, LEASED) && delayed[q] == IN(q, DELAYED));  /* miscounted */
  assert(over[q] == IN(q, OVER));                 /* a completion took effect twice */
  if
  :: state[q] == DRAINED || state[q] == INCOMPLETE ->
     assert(WORK_THERE(q) == 0);                  /* ended early: work is left */
     assert(sealed[q] || !SOME(q, THERE));        /* ended early: a producer is there */
     assert(sealed[q] || q == 1 || come[q] >= EXPECTED);  /* ended early: not all have come */
     assert(q == 0 || ENDED(0));                  /* ended early: its stage goes on */
     assert((state[q] == INCOMPLETE) == (SOME(q, GIVEN_UP) || (q == 1 && state[0] != DRAINED)))  /* the wrong end */
  :: state[q] == CANCELLED
  :: else ->
     assert((!MAY_SEAL(q) && !MAY_END(q)) || MUTANT == CHECKED_THEN_ENDED || MUTANT == REAP_DOES_NOT_SETTLE)  /* late */
  fi
}

/* A queue that has ended drops its keys, so that states which differ in them alone are one. */
inline forget(q) {
  if
  :: ENDED(q) && ends[q] == 1 ->
     for (i : q*CHUNKS .. q*CHUNKS + CHUNKS - 1) { place[i] = NOWHERE; tries[i] = 0 }
     i = 0; over[q] = 0
  :: else
  fi
}

/* After each script. */
inline check() { check_queue(0); check_queue(1); forget(0); forget(1) }

/* --- parts of scripts: _settle, _complete, _giveback -------------------------------------------------------------- */

inline end_queue(q, final) {
  state[q] = final;
  printf("  queue %d ends: %d\n", q, final);
  ends[q]++;
  assert(ends[q] == 1);                           /* ended twice */
  for (i : 0 .. SLOTS - 1) {
    if :: queue_of[i] == q -> queue_of[i] = NONE; hand[i] = NONE :: else fi
  }
  i = 0
}

inline depart(p, as) {
  if
  :: how[p] == LIVE || MUTANT == LEAVE_COUNTS_TWICE ->
     how[p] = as;
     live[FEEDS(p)]--;
     if :: as == LOST -> lost[FEEDS(p)]++ :: else fi
  :: else
  fi
}

inline depart_stage() {
  if
  :: stage == LIVE ->
     stage = (state[0] == DRAINED -> LEFT : LOST);
     live[1]--;
     stages[1]--;
     if :: stage == LOST -> lost[1]++ :: else fi
  :: else
  fi
}

inline lose(p) {
  if
  :: sealed[FEEDS(p)] || MUTANT == LOST_COUNTS_AS_LEFT -> depart(p, LEFT)  /* nothing more of it was to come */
  :: else -> depart(p, LOST)
  fi
}

#define NOBODY_LIVE(q) (live[q] == 0 || MUTANT == SETTLE_IGNORES_PRODUCERS)
#define ALL_CAME(q) (q == 1 || come[q] >= EXPECTED || MUTANT == SETTLE_IGNORES_EXPECTED)
#define WORK(q) (ready[q] + (MUTANT == SETTLE_IGNORES_LEASED -> 0 : leased[q]) \
                          + (MUTANT == SETTLE_IGNORES_DELAYED -> 0 : delayed[q]))
#define STAGES(q) (MUTANT == SETTLE_IGNORES_STAGES -> 0 : stages[q])

inline settle_queue(q) {
  if :: state[q] == OPEN && NOBODY_LIVE(q) && ALL_CAME(q) -> state[q] = SEALED :: else fi;
  if
  :: state[q] == SEALED && WORK(q) == 0 && STAGES(q) == 0 ->
     end_queue(q, (lost[q] > 0 -> INCOMPLETE : DRAINED))
  :: else
  fi
}

inline settle(q) {
  if
  :: q == 0 ->
     settle_queue(0);
     if :: ENDED(0) -> depart_stage(); settle_queue(1) :: else fi
  :: else -> settle_queue(1)
  fi
}

inline output(c) {
  if
  :: ENDED(1) ->                                  /* outputs for a queue that was cancelled go nowhere */
     assert(state[1] == CANCELLED)                /* ended early: before an output came */
  :: else ->
     assert(place[CHUNKS + c] == NOWHERE);        /* passed on twice */
     place[CHUNKS + c] = READY; ready[1]++
  fi
}

inline complete(q, c, outcome) {
  leased[q]--;
  if
  :: outcome == RETRY -> place[q*CHUNKS + c] = DELAYED; delayed[q]++; tries[q*CHUNKS + c]++
  :: else ->
     place[q*CHUNKS + c] = OVER; over[q]++; tries[q*CHUNKS + c] = 0;
     if
     :: q == 0 && outcome == PASSED && MUTANT == OUTPUTS_IN_A_SECOND_STEP -> owed = c
     :: q == 0 && outcome == PASSED && MUTANT != OUTPUTS_IN_A_SECOND_STEP -> output(c)
     :: else
     fi
  fi
}

inline giveback(t, crashed) {
  if
  :: hand[t] != NONE && MUTANT != GIVEBACK_FORGETS_HAND ->
     i = queue_of[t]*CHUNKS + hand[t];
     leased[queue_of[t]]--;
     if :: crashed && MUTANT != CRASHES_ARE_NOT_COUNTED -> tries[i]++ :: else fi;
     if
     :: tries[i] == CRASH_LIMIT -> place[i] = OVER; over[queue_of[t]]++; tries[i] = 0
     :: else -> place[i] = READY; ready[queue_of[t]]++
     fi;
     i = 0
  :: else
  fi;
  queue_of[t] = NONE; hand[t] = NONE
}

/* --- the scripts -------------------------------------------------------------------------------------------------- */

inline join_lua(p) {
  if
  :: ENDED(FEEDS(p)) || sealed[FEEDS(p)] || (state[FEEDS(p)] == SEALED && how[p] != LOST) -> reply = FINISHED
  :: else ->
     if :: how[p] == UNKNOWN -> come[FEEDS(p)]++ :: else fi;
     if :: how[p] != LIVE -> live[FEEDS(p)]++ :: else fi;
     if :: how[p] == LOST -> lost[FEEDS(p)]-- :: else fi;
     how[p] = LIVE;
     epoch[p]++;
     state[FEEDS(p)] = OPEN;
     reply = OK
  fi
}

/* k: the chunk's sequence number. */
inline put_lua(p, with_epoch, k) {
  if
  :: with_epoch == epoch[p] && k <= seq[p] && MUTANT != PUT_NOT_RECOGNISED -> reply = OK
  :: else ->
     if
     :: ENDED(FEEDS(p)) || sealed[FEEDS(p)] -> reply = FINISHED
     :: else ->
        if
        :: (with_epoch != epoch[p] && MUTANT != PUT_BY_A_FORMER_LIFE) ||
           how[p] != LIVE || k > seq[p] + 1 -> reply = REFUSED
        :: else ->
           i = FEEDS(p)*CHUNKS + FIRST(p) + k - 1;
           assert(place[i] == NOWHERE);           /* put twice */
           place[i] = READY; ready[FEEDS(p)]++;
           i = 0;
           seq[p] = k;
           reply = OK
        fi
     fi
  fi
}

/* Not as lost: that does what reap does to a producer. */
inline leave_lua(p, with_epoch) {
  if
  :: (with_epoch != epoch[p] && MUTANT != LEAVE_BY_A_FORMER_LIFE) || how[p] == LOST -> reply = REFUSED
  :: else -> depart(p, LEFT); settle(FEEDS(p)); reply = OK
  fi
}

/* Complete the chunk `named`, unless it is NONE, and claim `pick`, unless nothing is ready; want is 0: leave. */
inline next_lua(q, t, named, outcome, want) {
  got = NONE;
  if
  :: ENDED(q) -> reply = FINISHED
  :: else ->
     if
     :: queue_of[t] != q ->
        if :: MUTANT == COMPLETION_NOT_FENCED && named != NONE -> complete(q, named, outcome) :: else fi;
        reply = REFUSED
     :: else ->
        if
        :: named != NONE && hand[t] == named -> complete(q, named, outcome); hand[t] = NONE
        :: named != NONE && hand[t] != named && MUTANT == COMPLETION_NOT_RECOGNISED -> complete(q, named, outcome)
        :: else                                   /* it was completed before, and the reply was lost */
        fi;
        if
        :: hand[t] != NONE && MUTANT != HAND_FORGOTTEN -> got = hand[t]  /* the reply was lost: the same again */
        :: else ->
           if
           :: want && ready[q] > 0 ->
              got = pick; hand[t] = pick; place[q*CHUNKS + pick] = LEASED; ready[q]--; leased[q]++
           :: else
           fi
        fi;
        if
        :: got != NONE -> reply = OK
        :: else ->
           if :: !want -> queue_of[t] = NONE :: else fi;
           if
           :: MUTANT == CHECKED_THEN_ENDED
           :: MUTANT == STAGE_LEAVES_IN_A_SECOND_STEP -> settle_queue(q)
           :: else -> settle(q)
           fi;
           reply = (ENDED(q) -> FINISHED : NOTHING)
        fi
     fi
  fi
}

/* reap.lua in parts: what it does at once it may as well do one after the other. A producer: */
inline reap_producer(p) {
  lose(p);
  if :: MUTANT != REAP_DOES_NOT_SETTLE -> settle(FEEDS(p)) :: else fi
}

/* A ticket; and release.lua. q: its queue. */
inline reap_ticket(q, t, crashed) {
  giveback(t, crashed);
  if :: MUTANT != REAP_DOES_NOT_SETTLE -> settle(q) :: else fi
}

/* A delay that is over; next.lua, too. */
inline reap_delay(q, c) {
  place[q*CHUNKS + c] = READY; delayed[q]--; ready[q]++;
  settle(q)
}

inline seal_lua(q) { state[q] = SEALED; sealed[q] = true; settle(q) }

inline cancel_lua(q) {
  for (i : q*CHUNKS .. q*CHUNKS + CHUNKS - 1) {
    if :: place[i] == READY || place[i] == LEASED || place[i] == DELAYED -> place[i] = NOWHERE :: else fi;
    tries[i] = 0
  }
  ready[q] = 0; leased[q] = 0; delayed[q] = 0;
  end_queue(q, CANCELLED);
  if :: q == 0 -> depart_stage(); settle(1) :: else fi
}

/* --- the processes ------------------------------------------------------------------------------------------------ */

/* What could happen for ever happens once more. */
#define HAPPENS trouble > 0 -> trouble--

/* producer/lastcall/producer.py. It may crash wherever it is. */
proctype Producer(byte p) {
  byte mine, k;                                   /* the epoch of its lease, the number of its next chunk */
comes:
  atomic {
    d_step {
      join_lua(p);
      printf("producer %d joins: %e, epoch %d\n", p, reply, epoch[p]);
      if :: reply == OK -> fate[p] = THERE :: else fi;
      check()
    };
    if
    :: reply == OK -> mine = epoch[p]; k = seq[p] + 1
    :: reply == OK && epoch[p] < LIVES && trouble > 0 -> HAPPENS; reply = 0; goto comes
    :: reply == FINISHED -> reply = 0; goto gone
    fi;
    reply = 0
  };
  do
  :: k <= PUTS(p) ->
     atomic {
       d_step { put_lua(p, mine, k); printf("producer %d puts its chunk %d: %e\n", p, k, reply); check() };
       if
       :: reply == OK -> k++
       :: HAPPENS
       :: reply == FINISHED -> reply = 0; goto gone
       :: reply == REFUSED -> reply = 0; goto fell
       fi;
       reply = 0
     }
  :: k > PUTS(p) ->
     atomic {
       d_step {
         leave_lua(p, mine);
         printf("producer %d leaves: %e\n", p, reply);
         if :: reply == OK -> fate[p] = CLOSED :: else fi;
         check()
       };
       if
       :: reply == OK -> reply = 0; goto gone
       :: HAPPENS
       :: reply == REFUSED -> reply = 0; goto fell
       fi;
       reply = 0
     }
  :: LIVES > 1 && late == 0 ->                    /* it crashes, and its last call is still on the wire */
     d_step { late = (k > PUTS(p) -> LATE_LEAVE : k); late_p = p; late_epoch = mine };
     goto fell
  :: goto fell                                    /* it crashes, or is slow for ever */
  od;
fell:
  atomic {
    mine = 0; k = 0;
    if
    :: epoch[p] < LIVES -> goto comes
    :: goto gone
    fi
  };
gone:
  atomic { mine = 0; k = 0 }
}

/* Where a slot is: */
#define IDLE 0
#define WORKS 1           /* on the chunk it was given */
#define LINGERS 2         /* at the bell: nothing was ready */
#define ASKS_AGAIN 3      /* the reply to its last call was lost */
#define SECOND_STEP 4     /* of the last mutants: some of what next should have done */
#define HAS_SECOND_STEP(q) (MUTANT >= OUTPUTS_IN_A_SECOND_STEP && (owed != NONE || \
  (MUTANT == STAGE_LEAVES_IN_A_SECOND_STEP && ENDED(0) && stage == LIVE) || \
  (MUTANT == CHECKED_THEN_ENDED && MAY_END(q))))

/* It has no run, nor has its last one's ticket still to be given up. Slots are alike: the first one goes. */
#define FREE(t) (idle[t] && queue_of[t] == NONE)
#define FIRST_FREE(t) (FREE(t) && (t == 0 || !FREE(0)))

/* Chunks that were tried equally often are alike, too. */
#define ALIKE(q, c, d) (place[q*CHUNKS + c] == place[q*CHUNKS + d] && tries[q*CHUNKS + c] == tries[q*CHUNKS + d])
#define FIRST_READY(q, c) (place[q*CHUNKS + c] == READY && \
                           (c < 1 || !ALIKE(q, c, 0)) && (c < 2 || !ALIKE(q, c, 1)))

inline forget_run() { idle[me] = true; at = IDLE; q = 0; named = NONE; outcome = 0; want = false }

/* worker/lastcall_worker/slot.py. One turn is all that happens up to a call, the call, and what follows from its reply:
   what a slot does by itself, nobody sees. */
proctype Slot(byte me) {
  byte at, q, named = NONE, outcome;
  bool want;
  do
  :: atomic {
       if
       :: at == IDLE && ready[0] + ready[1] > 0 && FIRST_FREE(me) ->
          if :: ready[0] > 0 -> q = 0 :: ready[1] > 0 -> q = 1 fi;
          idle[me] = false;
          queue_of[me] = q;
          want = true
       :: at == WORKS ->
          if
          :: outcome = PASSED
          :: RAISES && q == 0 -> outcome = FILTERED
          :: RAISES -> outcome = FAILED
          :: RAISES && tries[q*CHUNKS + named] + 1 < CRASH_LIMIT -> outcome = RETRY
          fi;
          if :: want = true :: want = false fi    /* its slice is over */
       :: at == LINGERS && ready[q] > 0 -> want = true
       :: at == LINGERS -> want = false           /* the bell has not rung for a while */
       :: at == ASKS_AGAIN
       fi;
       if
       :: want && FIRST_READY(q, 0) -> pick = 0
       :: want && FIRST_READY(q, 1) -> pick = 1
       :: want && FIRST_READY(q, 2) -> pick = 2
       :: !want || ready[q] == 0
       fi;
       d_step {
         next_lua(q, me, named, outcome, want);
         printf("slot %d, queue %d: completes %d, outcome %d, wants %d: %e", me, q, named, outcome, want, reply);
         printf(" %d\n", got);
         pick = 0; check()
       };
       if
       :: HAPPENS; printf("  slot %d's reply is lost\n", me); at = ASKS_AGAIN
       :: HAS_SECOND_STEP(q) -> at = SECOND_STEP; named = owed; owed = NONE
       :: !HAS_SECOND_STEP(q) && reply == OK -> at = WORKS; named = got; outcome = 0; want = false
       :: !HAS_SECOND_STEP(q) && reply == NOTHING && want -> at = LINGERS; named = NONE; outcome = 0; want = false
       :: !HAS_SECOND_STEP(q) && ((reply == NOTHING && !want) || reply == REFUSED || reply == FINISHED) -> forget_run()
       fi;
       reply = 0; got = 0
     }
  :: d_step { at != IDLE -> printf("slot %d crashes\n", me); forget_run() }  /* its ticket stays, with the chunk */
  :: d_step {                                     /* it is told to end, and gives its chunk back */
       at == WORKS && queue_of[me] == q && trouble > 0 ->
       HAPPENS; printf("slot %d gives back its chunk\n", me); reap_ticket(q, me, false); check(); forget_run()
     }
#if MUTANT >= OUTPUTS_IN_A_SECOND_STEP
  :: d_step {
       at == SECOND_STEP ->
       if
       :: MUTANT == OUTPUTS_IN_A_SECOND_STEP -> output(named)
       :: MUTANT == STAGE_LEAVES_IN_A_SECOND_STEP -> depart_stage(); settle(1)
       :: MUTANT == CHECKED_THEN_ENDED -> end_queue(q, DRAINED); settle(q)
       fi;
       printf("slot %d does the rest\n", me);
       check(); forget_run()
     }
#endif
  :: at == IDLE && BOTH_ENDED -> break
  od
}

#define LEASE_RUNS_OUT(p) \
  d_step { \
    how[p] == LIVE && !ENDED(FEEDS(p)) && MUTANT != PRODUCERS_ARE_COUNTED -> \
    fate[p] = (sealed[FEEDS(p)] -> CLOSED : GIVEN_UP); \
    reap_producer(p); printf("producer %d is given up\n", p); check() \
  }
#define TICKET_RUNS_OUT(q, t) \
  d_step { queue_of[t] == q -> reap_ticket(q, t, true); printf("slot %d's ticket is given up\n", t); check() }
#define DELAY_IS_OVER(q, c) \
  d_step { \
    place[q*CHUNKS + c] == DELAYED && !ENDED(q) -> \
    reap_delay(q, c); printf("chunk %d of queue %d: its delay is over\n", c, q); check() \
  }

/* Time: the reaper of the workers and of clients that wait. A deadline may pass whether its holder lives, and was slow,
   or not; it passes if not, since in the end nothing else can happen. And the wire; and an operator. */
proctype World() {
  do
  :: LEASE_RUNS_OUT(0)
  :: LEASE_RUNS_OUT(1)
  :: TICKET_RUNS_OUT(0, 0) :: TICKET_RUNS_OUT(0, 1) :: TICKET_RUNS_OUT(1, 0) :: TICKET_RUNS_OUT(1, 1)
#if RAISES
  :: DELAY_IS_OVER(0, 0) :: DELAY_IS_OVER(0, 1) :: DELAY_IS_OVER(0, 2)
  :: DELAY_IS_OVER(1, 0) :: DELAY_IS_OVER(1, 1) :: DELAY_IS_OVER(1, 2)
#endif
#if LIVES > 1
  :: d_step {
       late > 0 && late < LATE_LEAVE -> put_lua(late_p, late_epoch, late);
       printf("a late put of producer %d, chunk %d, arrives: %e\n", late_p, late, reply);
       late = 0; late_p = 0; late_epoch = 0; reply = 0; check()
     }
  :: d_step {
       late == LATE_LEAVE -> leave_lua(late_p, late_epoch);
       printf("a late leave of producer %d arrives: %e\n", late_p, reply);
       if :: reply == OK && late_epoch == epoch[late_p] -> fate[late_p] = CLOSED :: else fi;
       late = 0; late_p = 0; late_epoch = 0; reply = 0; check()
     }
#endif
#if OPERATOR
  :: d_step { operator && !ENDED(0) -> operator = false; seal_lua(0); printf("seal queue 0\n"); check() }
  :: d_step { operator && !ENDED(1) -> operator = false; seal_lua(1); printf("seal queue 1\n"); check() }
  :: d_step { operator && !ENDED(0) -> operator = false; cancel_lua(0); printf("cancel queue 0\n"); check() }
  :: d_step { operator && !ENDED(1) -> operator = false; cancel_lua(1); printf("cancel queue 1\n"); check() }
#endif
  :: BOTH_ENDED -> break
  od
}

/* Every process goes on until both queues have ended. So a run in which one does not end is one that goes round for
   ever (pan -l finds that) or one that stops with processes left (an "invalid end state"). */
init {
  d_step { state[1] = OPEN; live[1] = 1; stages[1] = 1; come[1] = 1; stage = LIVE };  /* create.lua, of both */
  atomic { run Producer(0); run Producer(1); run Slot(0); run Slot(1); run World() }
}
