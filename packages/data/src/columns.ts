/**
 * Steps that change columns and keep rows: which columns there are after them, and the batch that has those.
 */
import { BeamlineError } from '@beamline/runtime'
import { type Data, Field, type RecordBatch, Schema } from 'apache-arrow'
import { fromColumns } from './block.ts'
import { bind, bindCondition } from './expr/bind.ts'
import { evaluate } from './expr/evaluate.ts'
import type { Stage } from './plan/logical.ts'
import { unknownColumn } from './unknown-column.ts'

type ColumnStage = Extract<Stage, { kind: 'select' | 'drop' | 'rename' | 'withColumns' }>

/** A column after a step: one from before it, under this name, or a new one. */
interface Place {
  readonly field: Field
  /** Index before the step. */
  readonly from?: number
  /** Index in `withColumns`. */
  readonly made?: number
}

/**
 * The columns after a step whose columns follow from those before it.
 *
 * @throws {@link BeamlineError} `COLUMN_NOT_FOUND`, `EXPRESSION_INVALID`, `INVALID_ARGUMENT` for two columns of one name
 */
export function schemaAfter(stage: Stage, schema: Schema): Schema {
  switch (stage.kind) {
    case 'where':
      bindCondition(stage.condition, schema, 'filter')
      return schema
    case 'select':
    case 'drop':
    case 'rename':
    case 'withColumns':
      return new Schema(
        placesAfter(stage, schema).map(({ field }) => field),
        schema.metadata,
      )
    default:
      return schema
  }
}

/** The batch after the step. Columns that stay are not copied. */
export function reshape(batch: RecordBatch, stage: ColumnStage): RecordBatch {
  const places = placesAfter(stage, batch.schema)
  const columns = places.map(({ from, made }) => {
    if (from !== undefined) return batch.data.children[from] as Data
    const [, value] = (stage as Extract<ColumnStage, { kind: 'withColumns' }>).columns[made as number] as readonly [string, never]
    return evaluate(bind(value, batch.schema, stage.kind), batch)
  })
  return fromColumns(
    new Schema(
      places.map(({ field }) => field),
      batch.schema.metadata,
    ),
    columns,
    batch.numRows,
  )
}

function placesAfter(stage: ColumnStage, schema: Schema): Place[] {
  const places = schema.fields.map((field, from): Place => ({ field, from }))
  const at = (name: string): Place => places.find(({ field }) => field.name === name) ?? missing(stage.kind, name, schema)
  switch (stage.kind) {
    case 'select':
      return stage.columns.map(at)
    case 'drop': {
      const gone = new Set(stage.columns.map(at))
      return places.filter((place) => !gone.has(place))
    }
    case 'rename': {
      const names = new Map(stage.names.map(([from, to]) => [at(from), to]))
      return distinct(
        'rename',
        places.map((place) => {
          const to = names.get(place)
          return to === undefined ? place : { ...place, field: new Field(to, place.field.type, place.field.nullable, place.field.metadata) }
        }),
      )
    }
    case 'withColumns': {
      const after = [...places]
      for (const [made, [name, value]] of stage.columns.entries()) {
        const place: Place = { field: new Field(name, bind(value, schema, 'withColumns').type, true), made }
        const index = after.findIndex(({ field }) => field.name === name)
        if (index < 0) after.push(place)
        else after[index] = place
      }
      return after
    }
  }
}

function distinct(what: string, places: Place[]): Place[] {
  const seen = new Set<string>()
  for (const { field } of places) {
    if (seen.has(field.name))
      throw new BeamlineError('INVALID_ARGUMENT', { what: `the columns after ${what}`, got: `two named "${field.name}"`, expected: 'different names' })
    seen.add(field.name)
  }
  return places
}

function missing(what: string, column: string, schema: Schema): never {
  throw unknownColumn(
    what,
    column,
    schema.fields.map(({ name }) => name),
  )
}
