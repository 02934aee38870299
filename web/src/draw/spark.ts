// The geometry of a sparkline: one line, broken where values are missing.

export interface Spark {
  line: string;
  area: string;
  /** Where the line ends, if it reaches the right edge. */
  end: { x: number; y: number } | undefined;
  /** Where it stopped before the edge. */
  missingFrom: number | undefined;
}

export function spark(values: (number | null)[], width: number, height: number, least: number, most: number): Spark {
  const count = Math.max(2, values.length);
  const x = (place: number) => round((place / (count - 1)) * (width - 3) + 0.5);
  const y = (value: number) => {
    const share = (Math.min(most, Math.max(least, value)) - least) / Math.max(1e-9, most - least);
    return round(height - 1.5 - share * (height - 3.5));
  };
  let line = "";
  let area = "";
  let begun = -1;
  let last = -1;
  const close = () => {
    if (begun >= 0) area += `L${x(last)} ${height}L${x(begun)} ${height}Z`;
    begun = -1;
  };
  values.forEach((value, place) => {
    if (value === null) return close();
    const point = `${begun >= 0 ? "L" : "M"}${x(place)} ${y(value)}`;
    line += point;
    area += point;
    if (begun < 0) begun = place;
    last = place;
  });
  close();
  const whole = last >= 0 && last === values.length - 1;
  return {
    line,
    area,
    end: whole ? { x: x(last), y: y(values[last]!) } : undefined,
    missingFrom: last >= 0 && !whole ? x(last) : undefined,
  };
}

const round = (value: number) => Math.round(value * 10) / 10;
