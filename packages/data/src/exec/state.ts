/**
 * The streaming executor as a pure state machine: an event goes in, a list of instructions comes out. No clock, no I/O, no promises.
 *
 * Operators form a chain. Each runs numbered tasks; outputs enter the next operator in the order of those numbers, so the order of rows never
 * depends on timing. Two budgets bound what exists at once: bytes of all blocks (with an estimate for running tasks), and unconsumed outputs
 * per operator. Consumers come before producers; when nothing runs and the consumer waits, one task may start whatever the budget says.
 */

/** Rows of one block, by the executor's own number for it. */
export interface Slice {
  readonly block: number
  readonly offset: number
  readonly rows: number
}

export interface OperatorSpec {
  readonly kind: 'source' | 'transform' | 'limit'
  /** source: how many tasks there are. */
  readonly tasks: number
  /** Tasks in flight at most; for a pool, over all its workers. */
  readonly tasksMax: number
  /** Workers of a pool; 0: no pool. */
  readonly workers: number
  /** transform: inputs are bundled to multiples of this many rows; undefined: one block per task. */
  readonly batchRows: number | undefined
  /** limit: rows to let through. */
  readonly rows: number
  /** source: a first guess at the bytes that a task's output has. Others start from the outputs of the operator before them. */
  readonly outputBytes: number
}

export interface Budget {
  readonly bytesMax: number
  /** Unconsumed outputs of one operator, those of running tasks included. */
  readonly outputsMax: number
  /** Tasks in flight over all operators without a pool. */
  readonly tasksMax: number
  /** Tasks in flight of an operator of which none has finished, so that nobody knows how large its outputs are. */
  readonly probesMax: number
}

export type ExecutorEvent =
  | { readonly kind: 'start' }
  | { readonly kind: 'finished'; readonly op: number; readonly task: number; readonly block: number; readonly rows: number; readonly bytes: number }
  | { readonly kind: 'failed'; readonly op: number; readonly task: number; readonly error: unknown }
  /** The consumer wants one more slice. */
  | { readonly kind: 'pull' }
  /** The consumer is through with a block that it was given. */
  | { readonly kind: 'consumed'; readonly block: number }
  /** The consumer wants no more. */
  | { readonly kind: 'stop' }

export type Instruction =
  | { readonly kind: 'run'; readonly op: number; readonly task: number /** -1 outside a pool. */; readonly worker: number; readonly inputs: readonly Slice[] }
  | { readonly kind: 'cancel'; readonly op: number; readonly task: number }
  | { readonly kind: 'release'; readonly block: number }
  | { readonly kind: 'deliver'; readonly slice: Slice }
  /** No task of this operator will run any more. */
  | { readonly kind: 'retire'; readonly op: number }
  | { readonly kind: 'end' }
  | { readonly kind: 'fail'; readonly op: number; readonly task: number; readonly error: unknown }

interface Running {
  readonly inputs: readonly Slice[]
  readonly worker: number
}

interface Operator {
  readonly spec: OperatorSpec
  /** Inputs in order, not yet in a task. */
  readonly queue: Slice[]
  /** Nothing more will be queued. */
  inputEnded: boolean
  nextTask: number
  readonly running: Map<number, Running>
  readonly workerLoad: number[]
  /** Outputs that wait for those of earlier tasks. */
  readonly held: Map<number, Slice>
  nextOutput: number
  /** Outputs that the next operator, or the consumer, has not finished with. */
  unconsumed: number
  finishedTasks: number
  finishedBytes: number
  rowsLeft: number
  retired: boolean
}

interface Block {
  readonly bytes: number
  /** The operator that made it. */
  readonly op: number
  /** Slices and running tasks that refer to it. */
  uses: number
}

type Phase = 'running' | 'ended' | 'failed' | 'stopped'

export class ExecutorState {
  readonly #operators: Operator[]
  readonly #budget: Budget
  readonly #blocks = new Map<number, Block>()
  readonly #output: Slice[] = []
  #pulls = 0
  #heldBytes = 0
  #phase: Phase = 'running'
  #out: Instruction[] = []

  constructor(operators: readonly OperatorSpec[], budget: Budget) {
    this.#budget = budget
    this.#operators = operators.map((spec) => ({
      spec,
      queue: [],
      inputEnded: spec.kind === 'source',
      nextTask: 0,
      running: new Map(),
      workerLoad: new Array<number>(spec.workers).fill(0),
      held: new Map(),
      nextOutput: 0,
      unconsumed: 0,
      finishedTasks: 0,
      finishedBytes: 0,
      rowsLeft: spec.rows,
      retired: false,
    }))
  }

  get phase(): Phase {
    return this.#phase
  }

  /** Bytes of blocks that exist now. */
  get heldBytes(): number {
    return this.#heldBytes
  }

  handle(event: ExecutorEvent): Instruction[] {
    this.#out = []
    switch (event.kind) {
      case 'start':
        break
      case 'finished':
        this.#finished(event)
        break
      case 'failed':
        this.#failed(event)
        break
      case 'pull':
        this.#pulls++
        break
      case 'consumed':
        this.#drop(event.block)
        break
      case 'stop':
        if (this.#phase === 'running') this.#halt('stopped')
        break
    }
    if (this.#phase === 'running') this.#advance()
    return this.#out
  }

  #finished({ op, task, block, rows, bytes }: Extract<ExecutorEvent, { kind: 'finished' }>): void {
    const operator = this.#operators[op] as Operator
    const running = operator.running.get(task)
    if (running === undefined) {
      // It was cancelled meanwhile: nobody wants the output.
      this.#out.push({ kind: 'release', block })
      return
    }
    this.#leave(operator, task, running)
    operator.finishedTasks++
    operator.finishedBytes += bytes
    this.#blocks.set(block, { bytes, op, uses: 1 })
    this.#heldBytes += bytes
    operator.unconsumed++
    operator.held.set(task, { block, offset: 0, rows })
  }

  #failed({ op, task, error }: Extract<ExecutorEvent, { kind: 'failed' }>): void {
    const operator = this.#operators[op] as Operator
    const running = operator.running.get(task)
    if (running === undefined) return
    this.#leave(operator, task, running)
    if (this.#phase !== 'running') return
    this.#halt('failed')
    this.#out.push({ kind: 'fail', op, task, error })
  }

  #leave(operator: Operator, task: number, { inputs, worker }: Running): void {
    operator.running.delete(task)
    if (worker >= 0) operator.workerLoad[worker] = (operator.workerLoad[worker] as number) - 1
    for (const { block } of inputs) this.#drop(block)
  }

  #drop(block: number): void {
    const entry = this.#blocks.get(block)
    if (entry === undefined || --entry.uses > 0) return
    this.#blocks.delete(block)
    this.#heldBytes -= entry.bytes
    const maker = this.#operators[entry.op] as Operator
    maker.unconsumed--
    this.#out.push({ kind: 'release', block })
  }

  #advance(): void {
    for (let op = 0; op < this.#operators.length; op++) this.#pass(op)
    this.#deliver()
    while (this.#dispatchOne(false)) {}
    if (this.#running() === 0 && this.#output.length === 0 && this.#pulls > 0) this.#dispatchOne(true)
    for (const [op, operator] of this.#operators.entries()) if (!operator.retired && isDone(operator)) this.#retire(op)
    if (this.#operators.every(isDone) && this.#output.length === 0 && this.#pulls > 0) {
      this.#phase = 'ended'
      this.#out.push({ kind: 'end' })
    }
  }

  /** Moves what `op` has ready, in order, to the next operator or the consumer. */
  #pass(op: number): void {
    const operator = this.#operators[op] as Operator
    if (operator.spec.kind === 'limit') {
      while (operator.queue.length > 0) this.#passLimited(op, operator, operator.queue.shift() as Slice)
      if (operator.rowsLeft <= 0 && !operator.inputEnded) this.#cutOff(op)
    } else {
      for (let slice = operator.held.get(operator.nextOutput); slice !== undefined; slice = operator.held.get(operator.nextOutput)) {
        operator.held.delete(operator.nextOutput++)
        this.#append(op, slice)
      }
    }
    const next = this.#operators[op + 1]
    if (next !== undefined && isDone(operator)) next.inputEnded = true
  }

  #passLimited(op: number, operator: Operator, slice: Slice): void {
    // The first block passes even without rows: it carries the schema.
    const rows = Math.min(slice.rows, operator.rowsLeft)
    if (rows === 0 && operator.nextOutput > 0) {
      this.#drop(slice.block)
      return
    }
    operator.nextOutput++
    operator.rowsLeft -= rows
    this.#append(op, { ...slice, rows })
  }

  #append(op: number, slice: Slice): void {
    const next = this.#operators[op + 1]
    if (next === undefined) this.#output.push(slice)
    else next.queue.push(slice)
  }

  /** Nothing above the limit is wanted any more. */
  #cutOff(limit: number): void {
    ;(this.#operators[limit] as Operator).inputEnded = true
    for (let op = limit - 1; op >= 0; op--) this.#abandon(op)
  }

  #abandon(op: number): void {
    const operator = this.#operators[op] as Operator
    for (const [task, running] of operator.running) {
      this.#leave(operator, task, running)
      this.#out.push({ kind: 'cancel', op, task })
    }
    for (const { block } of operator.queue.splice(0)) this.#drop(block)
    for (const { block } of operator.held.values()) this.#drop(block)
    operator.held.clear()
    operator.inputEnded = true
    operator.nextTask = Math.max(operator.nextTask, operator.spec.tasks)
    operator.nextOutput = operator.nextTask
  }

  #deliver(): void {
    while (this.#pulls > 0 && this.#output.length > 0) {
      this.#pulls--
      this.#out.push({ kind: 'deliver', slice: this.#output.shift() as Slice })
    }
  }

  #dispatchOne(regardless: boolean): boolean {
    for (let op = this.#operators.length - 1; op >= 0; op--) {
      const operator = this.#operators[op] as Operator
      if (!this.#mayRun(op, operator, regardless)) continue
      const inputs = operator.spec.kind === 'source' ? [] : this.#bundle(operator)
      const worker = leastLoaded(operator.workerLoad)
      if (worker >= 0) operator.workerLoad[worker] = (operator.workerLoad[worker] as number) + 1
      const task = operator.nextTask++
      operator.running.set(task, { inputs, worker })
      this.#out.push({ kind: 'run', op, task, worker, inputs })
      return true
    }
    return false
  }

  #mayRun(op: number, operator: Operator, regardless: boolean): boolean {
    const { spec, running, queue } = operator
    if (spec.kind === 'limit' || running.size >= spec.tasksMax || !hasWork(operator)) return false
    if (regardless) return true
    if (spec.workers === 0 && this.#runningOutsidePools() >= this.#budget.tasksMax) return false
    if (operator.unconsumed + running.size >= this.#budget.outputsMax) return false
    if (operator.finishedTasks === 0 && running.size >= this.#budget.probesMax) return false
    const freed = spec.kind === 'source' ? 0 : (this.#blocks.get((queue[0] as Slice).block)?.bytes ?? 0)
    return this.#heldBytes - freed + this.#expectedBytes() + this.#outputBytes(op) <= this.#budget.bytesMax
  }

  /** The next inputs of a transform: one slice, or whole slices up to a batch, cut to a multiple of it unless the input has ended. */
  #bundle({ queue, spec, inputEnded }: Operator): Slice[] {
    const { batchRows } = spec
    if (batchRows === undefined) return [queue.shift() as Slice]
    const inputs: Slice[] = []
    let rows = 0
    while (queue.length > 0 && rows < batchRows) {
      const slice = queue.shift() as Slice
      inputs.push(slice)
      rows += slice.rows
    }
    const excess = inputEnded && queue.length === 0 ? 0 : rows % batchRows
    const last = inputs.at(-1) as Slice
    if (excess > 0) {
      inputs[inputs.length - 1] = { ...last, rows: last.rows - excess }
      queue.unshift({ block: last.block, offset: last.offset + last.rows - excess, rows: excess })
      ;(this.#blocks.get(last.block) as Block).uses++
    }
    return inputs
  }

  #retire(op: number): void {
    ;(this.#operators[op] as Operator).retired = true
    this.#out.push({ kind: 'retire', op })
  }

  #halt(phase: Phase): void {
    this.#phase = phase
    for (let op = 0; op < this.#operators.length; op++) {
      this.#abandon(op)
      if (!(this.#operators[op] as Operator).retired) this.#retire(op)
    }
    for (const { block } of this.#output.splice(0)) this.#drop(block)
  }

  #running(): number {
    return this.#operators.reduce((sum, { running }) => sum + running.size, 0)
  }

  #runningOutsidePools(): number {
    return this.#operators.reduce((sum, { running, spec }) => sum + (spec.workers === 0 ? running.size : 0), 0)
  }

  #expectedBytes(): number {
    return this.#operators.reduce((sum, { running }, op) => sum + running.size * this.#outputBytes(op), 0)
  }

  /** Bytes of one output of this operator: the mean so far, or a guess. */
  #outputBytes(op: number): number {
    const { finishedTasks, finishedBytes, spec } = this.#operators[op] as Operator
    if (finishedTasks > 0) return finishedBytes / finishedTasks
    return op === 0 ? spec.outputBytes : this.#outputBytes(op - 1)
  }

  /** @throws an `Error` naming the invariant that does not hold; for tests and BEAMLINE_VALIDATE */
  checkInvariants(): void {
    const uses = new Map<number, number>()
    const use = ({ block }: Slice): void => void uses.set(block, (uses.get(block) ?? 0) + 1)
    for (const operator of this.#operators) {
      operator.queue.forEach(use)
      for (const slice of operator.held.values()) use(slice)
      for (const { inputs } of operator.running.values()) inputs.forEach(use)
      if (operator.running.size > operator.spec.tasksMax) throw new Error('more tasks than the operator allows')
      if (operator.spec.workers > 0 && operator.workerLoad.reduce((a, b) => a + b, 0) !== operator.running.size)
        throw new Error('worker load differs from running tasks')
    }
    this.#output.forEach(use)
    let bytes = 0
    for (const [block, entry] of this.#blocks) {
      bytes += entry.bytes
      // A delivered slice is a use that only the consumer knows of.
      if (entry.uses < (uses.get(block) ?? 0)) throw new Error(`block ${block} has ${uses.get(block)} uses but counts ${entry.uses}`)
    }
    for (const block of uses.keys()) if (!this.#blocks.has(block)) throw new Error(`block ${block} is used after its release`)
    if (bytes !== this.#heldBytes) throw new Error('held bytes differ from the sum of blocks')
  }
}

function hasWork({ spec, nextTask, queue, inputEnded }: Operator): boolean {
  if (spec.kind === 'source') return nextTask < spec.tasks
  if (queue.length === 0) return false
  if (spec.batchRows === undefined || inputEnded) return true
  return queue.reduce((sum, { rows }) => sum + rows, 0) >= spec.batchRows
}

/** All inputs are used and all outputs handed on. */
function isDone(operator: Operator): boolean {
  const { spec, inputEnded, queue, running, held, nextTask } = operator
  if (!inputEnded || queue.length > 0 || running.size > 0 || held.size > 0) return false
  return spec.kind !== 'source' || nextTask >= spec.tasks
}

function leastLoaded(load: readonly number[]): number {
  let best = -1
  for (let worker = 0; worker < load.length; worker++) if (best < 0 || (load[worker] as number) < (load[best] as number)) best = worker
  return best
}
