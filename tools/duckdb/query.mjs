// Runs one statement in DuckDB and prints its rows as JSON, values as text: node query.mjs SQL
import { DuckDBInstance } from "@duckdb/node-api";

const connection = await (await DuckDBInstance.create()).connect();
const reader = await connection.runAndReadAll(process.argv[2]);
console.log(JSON.stringify(reader.getRows().map((row) => row.map((value) => (value === null ? null : String(value))))));
